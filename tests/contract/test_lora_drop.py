"""LoRA-drop: the probe, what it keeps and shares, and what it must leave alone."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from modules import method
from safetensors.torch import load_file
from torch.testing import assert_close

from experiments.adapters.saved import restore
from experiments.running.job import prepare_run
from experiments.running.runner import execute
from experiments.settings.config import Run
from experiments.training.probe import ProbeRun, strata
from variants.base import Variant
from variants.lora import LoRALayer
from variants.lora_drop import lora_layers, measure_importance, share_factors, smallest_cover


def trial(run: Run) -> tuple[ProbeRun, torch.nn.Module]:
    job = prepare_run(run, run.task.load(run.data))
    return ProbeRun(
        job.loaded.model, run.variant, job.examples, job.plan, run.seed
    ), job.loaded.model


def test_the_fewest_layers_that_reach_the_threshold_are_kept() -> None:
    shares = {"a": 0.1, "b": 0.5, "c": 0.15, "d": 0.25}
    assert smallest_cover(shares, 0.5) == {"b"}
    assert smallest_cover(shares, 0.51) == {"b", "d"}
    assert smallest_cover(shares, 0.75) == {"b", "d"}
    assert smallest_cover(shares, 1.0) == {"a", "b", "c", "d"}


def test_importance_is_the_share_of_squared_outputs_over_real_tokens(tiny_run: Callable) -> None:
    run = tiny_run("lora_drop", "variant.share=0.5")
    probe, model = trial(run)
    layers = lora_layers(model.backbone)
    torch.manual_seed(0)
    for layer in layers.values():
        layer.B.data.normal_()
    found = measure_importance(model.backbone, probe.batches(0.5))
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda m, x, name=name: inputs[name].append(x[0]))
        for name, layer in layers.items()
    ]
    sums = dict.fromkeys(layers, 0.0)
    model.eval()
    with torch.no_grad():
        for batch in probe.batches(0.5):
            for row in range(len(batch.rows)):  # one by one, so that there is no padding
                length = int(batch.inputs["attention_mask"][row].sum())
                model.backbone(input_ids=batch.inputs["input_ids"][row : row + 1, :length])
                for name, layer in layers.items():
                    delta = layer.merged_weight() - layer.W0
                    sums[name] += float((inputs[name].pop() @ delta.T).pow(2).sum())
    for hook in hooks:
        hook.remove()
    total = sum(sums.values())
    for name, value in sums.items():
        assert found[name] == pytest.approx(value / total, rel=1e-4)
    assert sum(found.values()) == pytest.approx(1.0)


def test_the_probe_leaves_the_head_as_it_was_and_the_factors_fresh(tiny_run: Callable) -> None:
    run = tiny_run("lora_drop", "variant.steps=5", "variant.threshold=0.5")
    probe, model = trial(run)
    head = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    run.variant.prepare(model.backbone, probe.probe())
    assert all(torch.equal(head[name], t) for name, t in model.head.state_dict().items())
    layers = lora_layers(model.backbone)
    assert not any(layer.B.any() for layer in layers.values())
    assert all(layer.A.any() for layer in layers.values())
    pairs = {id(layer.A) for layer in layers.values()}
    assert 1 < len(pairs) < len(layers) == 4


def test_the_probe_uses_up_no_batch_of_the_main_run(tiny_run: Callable, tmp_path: Path) -> None:
    """All layers kept and the factors equal, the first loss is LoRA's."""
    first = {}
    for variant, extra in (("lora", []), ("lora_drop", ["variant.threshold=1.0"])):
        run = tiny_run(variant, "record.log_every=1", "variant.lr=0.01", *extra)
        result = execute(run, tmp_path / variant)
        first[variant] = result.history["loss"].iloc[0]
    assert first["lora_drop"] == first["lora"]


def test_sharing_can_be_by_name_and_ranking_by_block(tiny_run: Callable) -> None:
    for unit, shared_per, groups in (("matrix", "name", 2), ("matrix", "shape", 1)):
        run = tiny_run(
            "lora_drop", f"variant.unit={unit}", f"variant.shared_per={shared_per}",
            "variant.threshold=0.0001", "variant.steps=3",
        )  # fmt: skip
        probe, model = trial(run)
        run.variant.prepare(model.backbone, probe.probe())
        pairs = {id(layer.A) for layer in lora_layers(model.backbone).values()}
        assert len(pairs) == 1 + groups  # one kept, and one in common per group
    run = tiny_run("lora_drop", "variant.unit=block", "variant.threshold=0.0001")
    probe, model = trial(run)
    run.variant.prepare(model.backbone, probe.probe())
    layers = lora_layers(model.backbone)
    own = {name.split(".")[2] for name, layer in layers.items()
           if sum(layer.A is other.A for other in layers.values()) == 1}  # fmt: skip
    assert len(own) == 1, "both matrices of one block keep a pair of their own"


def test_without_reset_the_probes_factors_go_on(tiny_run: Callable) -> None:
    run = tiny_run("lora_drop", "variant.reset=false", "variant.steps=5")
    probe, model = trial(run)
    run.variant.prepare(model.backbone, probe.probe())
    assert all(layer.B.any() for layer in lora_layers(model.backbone).values())


def test_the_share_is_stratified_seeded_and_of_its_size(tiny_run: Callable) -> None:
    probe, _ = trial(tiny_run("lora_drop", "data.train=400"))
    rows = probe.rows(0.1)
    assert len(rows) == 40 and np.array_equal(rows, probe.rows(0.1))
    labels = probe.data.labels
    assert labels[rows].mean() == pytest.approx(labels.mean(), abs=0.02)
    scores = np.linspace(0, 5, 50, dtype=np.float32)
    assert np.bincount(strata(scores)).tolist() == [10] * 5


def with_labels(probe: ProbeRun, labels: np.ndarray) -> ProbeRun:
    return replace(probe, data=replace(probe.data, labels=labels))


def test_a_class_of_one_row_is_no_obstacle(tiny_run: Callable) -> None:
    probe, _ = trial(tiny_run("lora_drop", "data.train=64"))
    for alone in ([7], [7, 8, 9]):
        labels = np.array([0] * 40 + [1] * (24 - len(alone)) + alone)
        rows = with_labels(probe, labels).rows(0.25)
        assert len(rows) == 16 and (labels[rows] == 0).sum() in (10, 11)
    scores = np.array([0.0] * 63 + [5.0], dtype=np.float32)
    assert len(with_labels(probe, scores).rows(0.25)) == 16


@pytest.mark.parametrize("share", [0.001, 0.02, 0.99])
def test_a_share_without_room_for_every_class_is_one_sentence(
    tiny_run: Callable, share: float
) -> None:
    probe, _ = trial(tiny_run("lora_drop", "data.train=64"))
    with pytest.raises(ValueError, match=r"^A share of .* of the train split's 64 examples are"):
        probe.rows(share)


def test_probe_time_is_reported_apart(tiny_run: Callable, tmp_path: Path) -> None:
    result = execute(tiny_run("lora_drop", "variant.steps=3"), tmp_path)
    assert result.cost["seconds"]["prepare"] > 0.001
    assert result.cost["steps"]["steps"] == 6
    assert result.telemetry["pairs"] >= 1


def test_shared_factors_are_saved_once_and_restored(tiny_run: Callable, tmp_path: Path) -> None:
    run = tiny_run("lora_drop", "variant.threshold=0.0001", "variant.lr=0.02")
    result = execute(run, tmp_path)
    stored = load_file(tmp_path / "adapter.safetensors")
    assert len([name for name in stored if name.endswith(".A")]) == result.telemetry["pairs"] == 2
    restored = restore(tmp_path).loaded
    layers = lora_layers(restored.model.backbone)
    assert len({id(layer.A) for layer in layers.values()}) == 2
    dev = run.task.load(run.data).score["dev"]
    outputs = run.task.evaluate(restored, dev, run.train).outputs
    np.testing.assert_array_equal(outputs, np.stack(result.predictions["outputs"]))


def test_a_shared_pair_is_one_change_of_w_and_its_gradient_the_sum() -> None:
    torch.manual_seed(0)
    layers = {name: LoRALayer(nn.Linear(6, 6), 2, 1.5, 0.0).double() for name in "ab"}
    alone = {name: deepcopy(layer) for name, layer in layers.items()}
    share_factors(layers, {"a": "a", "b": "a"})
    for layer in (*alone.values(), layers["a"]):
        layer.A.data.copy_(alone["a"].A)
        layer.B.data.copy_(torch.ones_like(layer.B))
    x = torch.randn(3, 6).double()
    for pair in (layers, alone):
        pair["b"](pair["a"](x)).square().sum().backward()
    for factor in "AB":
        together = getattr(layers["a"], factor)
        assert together is getattr(layers["b"], factor)
        apart = [getattr(layer, factor).grad for layer in alone.values()]
        assert_close(together.grad, apart[0] + apart[1])
    changes = [layer.merged_weight() - layer.W0 for layer in layers.values()]
    assert_close(changes[0], changes[1])
    count = sum(
        {id(p): p.numel() for layer in layers.values() for p in (layer.A, layer.B)}.values()
    )
    assert count == 2 * (6 + 6)


def test_a_layer_without_update_has_no_importance_and_a_model_of_such_is_an_error(
    tiny_run: Callable,
) -> None:
    probe, model = trial(tiny_run("lora_drop"))
    first, *others = lora_layers(model.backbone).values()
    with pytest.raises(ValueError, match="left every update at zero"):
        measure_importance(model.backbone, probe.batches(1.0))
    with torch.no_grad():
        for layer in others:
            layer.B.normal_()
    found = measure_importance(model.backbone, probe.batches(1.0))
    assert not first.B.any() and sum(value == 0 for value in found.values()) == 1
    assert sum(found.values()) == pytest.approx(1.0) and min(found.values()) == 0


def test_what_the_probe_found_is_in_the_result_and_explains_what_is_kept(
    tiny_run: Callable, tmp_path: Path
) -> None:
    run = tiny_run("lora_drop", "variant.threshold=0.6", "variant.steps=5", "variant.lr=0.02")
    telemetry = execute(run, tmp_path).telemetry
    found = {
        name.removeprefix("importance/"): value
        for name, value in telemetry.items()
        if name.startswith("importance/")
    }
    assert len(found) == 4 and sum(found.values()) == pytest.approx(1.0)
    own = {name for name in found if telemetry[f"own/{name}"]}
    kept = smallest_cover(found, 0.6)
    # One that is left over alone shares with none, and so has a pair of its own.
    assert kept <= own and len(own - kept) <= 1
    backbone = restore(tmp_path).loaded.model.backbone
    assert not any("importance" in key for key in run.variant.telemetry(backbone))
    assert not any("importance" in key for key in load_file(tmp_path / "adapter.safetensors"))


class Texts(nn.Module):
    """Layers that see tokens in several shapes, and some that see something else."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.tokens = nn.Linear(8, 8)
        self.flat = nn.Linear(8, 8)
        self.turned = nn.Linear(8, 8)
        self.pooled = nn.Linear(8, 8)
        self.patches = nn.Conv1d(8, 8, 3, padding=1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> None:
        x = self.embed(ids)
        x = x + self.tokens(x)
        x = x + self.flat(x.flatten(0, 1)).view_as(x)
        x = x + self.turned(x.transpose(0, 1)).transpose(0, 1)
        self.patches(x.transpose(1, 2))
        self.pooled(x[:, 0])


def looked_at(model: nn.Module, *names: str) -> Variant:
    """LoRA-drop on these layers, somewhere in its training."""
    variant = method("lora_drop", names)
    torch.manual_seed(0)
    variant.adapt(model)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.B)
    return variant


LAYERS = ("embed", "tokens", "flat", "turned", "pooled", "patches")


@pytest.mark.parametrize(("texts", "length"), [(4, 4), (1, 5), (3, 5), (4, 1)])
@pytest.mark.parametrize("masked", [True, False])
def test_importance_counts_tokens_where_there_are_any_and_rows_elsewhere(
    texts: int, length: int, masked: bool
) -> None:
    model = Texts()
    looked_at(model, *LAYERS)
    ids = torch.randint(0, 20, (texts, length))
    mask = torch.ones(texts, length, dtype=torch.long)
    if length > 1:
        mask[0, length // 2 :] = 0
        mask[-1, -1] = 0
    inputs = {"ids": ids} | ({"attention_mask": mask} if masked else {})
    if not masked:
        mask = torch.ones_like(mask)
    seen: dict[str, torch.Tensor] = {}
    layers = lora_layers(model)
    hooks = [
        layer.register_forward_pre_hook(lambda m, x, name=name: seen.update({name: x[0]}))
        for name, layer in layers.items()
    ]
    model.double().train()
    model.dropout.eval()  # a module that its owner keeps in evaluation mode
    found = measure_importance(model, [inputs])
    assert model.training and model.tokens.training and not model.dropout.training
    weights = {
        "embed": mask, "tokens": mask, "flat": mask.flatten(), "pooled": torch.ones(texts),
        "turned": mask if texts == length else mask.T, "patches": mask,
    }  # fmt: skip
    sums = {}
    for name, layer in layers.items():
        merged, base = layer.merge(), layer.base
        change = (merged(seen[name]) - base(seen[name])).double()
        squares = change.pow(2).sum(dim=1 if name == "patches" else -1)
        sums[name] = float((squares * weights[name]).sum())
    for name, value in sums.items():
        assert found[name] == pytest.approx(value / sum(sums.values()), rel=1e-4), name
    for handle in hooks:
        handle.remove()
    assert not any(layer._forward_pre_hooks for layer in layers.values())


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor,
        decoder_input_ids: torch.Tensor,
    ) -> None:  # fmt: skip
        self.encoder(self.embed(input_ids))
        self.decoder(self.embed(decoder_input_ids))


def test_an_encoders_mask_is_not_laid_over_a_decoders_tokens() -> None:
    model = Translator()
    looked_at(model, "encoder", "decoder")
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    inputs = {"input_ids": torch.randint(0, 20, (2, 4)), "attention_mask": mask}
    found = measure_importance(model, [inputs | {"decoder_input_ids": torch.ones(2, 3).long()}])
    assert sum(found.values()) == pytest.approx(1.0)
    layers = [name for name, layer in lora_layers(model).items()]
    with pytest.raises(ValueError, match=r"^encoder may see the encoder's tokens or the decoder's"):
        measure_importance(model, [inputs | {"decoder_input_ids": torch.ones(2, 4).long()}])
    assert model.training and layers == ["encoder", "decoder"]
    assert not any(layer._forward_pre_hooks for layer in lora_layers(model).values())


@pytest.mark.parametrize("training", [True, False])
def test_a_probe_that_fails_leaves_mode_and_hooks_as_they_were(training: bool) -> None:
    model = Texts().train(training)
    looked_at(model, *LAYERS)
    with pytest.raises(TypeError):
        measure_importance(model, [{"pixels": torch.ones(2)}])
    assert model.training == training and model.tokens.training == training
    assert not any(layer._forward_pre_hooks for layer in lora_layers(model).values())


def test_a_layer_whose_weight_is_read_has_no_importance_and_is_named() -> None:
    class Attention(nn.MultiheadAttention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x, x, x)[0]

    model = nn.Sequential(nn.Linear(8, 8), Attention(8, 2))
    looked_at(model, "0", "out_proj")
    with pytest.raises(ValueError, match=r"^1\.out_proj was not called .* leave it out"):
        measure_importance(model, [{"input": torch.randn(2, 3, 8)}])


def test_a_decoders_tokens_are_known_by_its_labels_too() -> None:
    class Translating(Translator):
        config = type("Config", (), {"is_encoder_decoder": True})

        def forward(  # type: ignore[override]
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
        ) -> None:
            super().forward(input_ids, attention_mask, labels.clamp(0))

    labels = torch.tensor([[3, 4, -100], [5, -100, -100]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    inputs = {"input_ids": torch.randint(0, 20, (2, 4)), "attention_mask": mask, "labels": labels}
    model = Translating()
    looked_at(model, "decoder", "encoder")
    found = measure_importance(model, [inputs])
    layers = lora_layers(model)
    with torch.no_grad():
        x = model.embed(labels.clamp(0))
        seen = torch.tensor([[1.0, 1, 1], [1, 1, 0]])  # the first one, and those behind a label
        decoder = (layers["decoder"].branch(x).square().sum(-1) * seen).sum()
        x = model.embed(inputs["input_ids"])
        encoder = (layers["encoder"].branch(x).square().sum(-1) * mask).sum()
    assert found["decoder"] == pytest.approx(float(decoder / (decoder + encoder)), rel=1e-4)
