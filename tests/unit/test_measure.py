"""Costs: counts, memory, arithmetic and latency are what they are said to be."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import VARIANTS

from experiments.running.job import prepare_run
from experiments.running.runner import execute
from experiments.settings.config import Run
from experiments.training.measure import (
    Clock,
    Cost,
    count_flops,
    count_parameters,
    latency,
    measure,
)
from variants.base import adapter_layers, replace_linears, target_linears
from variants.bitfit import BitFit
from variants.full import Full
from variants.head_only import HeadOnly
from variants.last_k import LastK
from variants.lora import LoRA

CPU = torch.device("cpu")
D, LAYERS, INNER, RANK = 32, 2, 64, 8  # of the tiny models


def begin(run: Run):
    return prepare_run(run, run.task.load(run.data))


@pytest.mark.parametrize(
    ("variant", "trained"),
    [
        ("lora", LAYERS * 2 * 2 * D * RANK),  # 2 L d r, for q and v
        ("dora", LAYERS * 2 * (2 * D * RANK + D)),  # and one magnitude per output
        ("head_only", 0),
        # q, k, v, o, two norms, up, down; and the norm of the embeddings
        ("bitfit", LAYERS * (4 * D + 2 * D + INNER + D) + D),
    ],
)
def test_trained_parameters_follow_the_papers_formula(
    tiny_run: Callable[..., Run], variant: str, trained: int
) -> None:
    job = begin(tiny_run(variant))
    head = D * D + D + D * 2 + 2
    counts = count_parameters(job.loaded.model)
    assert counts["trained"] == trained
    assert counts["trained_with_head"] == trained + head
    assert counts["head"] == head


def test_full_fine_tuning_trains_all_there_is(tiny_run: Callable[..., Run]) -> None:
    counts = count_parameters(begin(tiny_run("full")).loaded.model)
    assert counts["trained_with_head"] == counts["total"]


def test_lora_on_roberta_base_has_the_papers_count() -> None:
    with torch.device("meta"):
        from transformers import RobertaConfig, RobertaModel

        model = RobertaModel(RobertaConfig(vocab_size=50265), add_pooling_layer=False)
    settings = {"lr": 1.0, "rank": 8, "alpha": 16.0, "dropout": 0.0, "rslora": False}
    LoRA(**settings, targets=["query", "value"]).adapt(model)
    # Hu et al. 2021, Table 2, prints 0.3M: 2 x 24 x 768 x 8.
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 294_912


def test_baselines_have_the_counts_of_the_published_models() -> None:
    from transformers import GPT2Config, GPT2Model, RobertaConfig, RobertaModel

    with torch.device("meta"):
        roberta = RobertaModel(
            RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1),
            add_pooling_layer=False,
        )
        gpt2 = GPT2Model(GPT2Config(n_embd=1024, n_layer=24, n_head=16))
    for variant, model, count in (
        (Full(lr=1.0), roberta, 124_055_040),
        (BitFit(lr=1.0), roberta, 102_144),
        # FT-Top2 in Hu et al. 2021, Table 3, prints 25.19M.
        (LastK(lr=1.0, k=2), gpt2, 25_192_448),
        (HeadOnly(lr=0.0), gpt2, 0),
    ):
        variant.adapt(model)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("engine", ["packed", "transformers"])
@pytest.mark.parametrize("variant", ["full", "lora", "head_only"])
def test_operations_follow_the_closed_formula(
    tiny_run: Callable[..., Run], variant: str, engine: str
) -> None:
    settings = ("train.batch_size=8", "train.accumulate=1", f"compute.engine={engine}")
    job = begin(tiny_run(variant, *settings))
    (batch,) = job.batches.parts(1)
    if engine == "packed":
        tokens = batch.tokens
        # The last layer computes queries, and what follows from them, of the tokens that are read:
        # one of each text.
        length, last = (batch.lengths**2).sum() / tokens, 1.0
        share = 8 / tokens
        merged, beside = 2 * LAYERS - 1, 4 * D * RANK * share  # too few queries to merge for
    else:
        tokens = batch.inputs["input_ids"].numel()
        length = last = batch.inputs["input_ids"].shape[1]
        share, merged, beside = 1.0, 2 * LAYERS, 0.0
    found = count_flops(job.loaded.model, lambda: 0.0, [batch])
    weights = (LAYERS - 1 + share) * (4 * D * D + 2 * D * INNER) + (1 - share) * 2 * D * D
    attention = 4 * D * ((LAYERS - 1) * length + last)
    head = 8 * (D * D + 2 * D) / tokens  # one token of each text
    adapters = (2 * LAYERS - 1 + share) * 2 * D * RANK
    # So many tokens are multiplied by W0 + s B A, which is made once for q and v of each layer.
    one = 2 * RANK * D * D / tokens if variant == "lora" else 0
    forward = 2 * weights + attention + 2 * head
    forward += merged * one + beside if variant == "lora" else 0
    assert found["forward_per_token"] == pytest.approx(forward, rel=1e-6)
    # The first layer's input is frozen: no gradient to it from q, k, v, none to its keys.
    spared = 2 * 3 * D * D + 2 * one + 2 * length * D
    backward = {
        "full": 4 * weights + 2 * attention + 4 * head,
        "lora": 2 * weights + 2 * attention + 4 * adapters + 4 * head + merged * one - spared,
        "head_only": 4 * head - 2 * 8 * D * D / tokens,
    }[variant]
    if engine == "packed" and variant != "head_only":
        backward += attention / 2  # the scores once more
    assert found["training_per_token"] == pytest.approx(forward + backward, rel=1e-6)


def test_counting_operations_leaves_no_gradient(tiny_run: Callable[..., Run]) -> None:
    job = begin(tiny_run("lora"))
    count_flops(job.loaded.model, lambda: 0.0, list(job.batches.parts(1)))
    assert all(p.grad is None for p in job.loaded.model.parameters())


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be reset on Linux only")
def test_peak_memory_is_that_of_its_phase() -> None:
    before, large, after = Cost(), Cost(), Cost()
    with measure(CPU, before):
        pass
    if before.peak_mib is None:
        pytest.skip("this system does not let a process reset its peak")
    with measure(CPU, large):
        torch.ones(200 * 2**18).sum()  # 200 MiB
    with measure(CPU, after):
        pass
    assert large.peak_mib - before.peak_mib > 150
    assert large.peak_mib - after.peak_mib > 150


def test_a_clock_gives_median_deciles_and_throughput() -> None:
    clock = Clock(CPU, steps=[0.1] * 9 + [1.0], tokens=190, padded=300)
    summary = clock.summary()
    assert summary["steps"] == 10
    assert summary["step_seconds_median"] == pytest.approx(0.1)
    assert summary["step_seconds_p90"] > 0.1 == pytest.approx(summary["step_seconds_p10"])
    assert summary["tokens_per_second"] == pytest.approx(100.0)
    assert summary["padded_tokens"] == 300


def test_latency_puts_the_adapters_back(tiny_run: Callable[..., Run]) -> None:
    job = begin(tiny_run("dora"))
    (batch, *_) = job.batches.parts(1)
    layers = dict(adapter_layers(job.loaded.model.backbone))
    found = latency(job.loaded.model, batch, budget=0.05)
    assert dict(adapter_layers(job.loaded.model.backbone)) == layers
    assert found["adapted_ms"] > 0 and found["merged_ms"] > 0
    assert found["batch"] == len(batch.rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_result_holds_every_cost(
    tiny_run: Callable[..., Run], tmp_path: Path, variant: str
) -> None:
    execute(tiny_run(variant, "train.epochs=1"), tmp_path)
    cost = json.loads((tmp_path / "result.json").read_text())["cost"]
    assert set(cost) == {
        "parameters", "seconds", "processor_seconds", "peak_mib", "memory", "restarts", "steps",
        "flops", "latency", "bytes",
    }  # fmt: skip
    assert cost["bytes"]["adapter"] == (tmp_path / "adapter.safetensors").stat().st_size
    assert cost["steps"]["steps"] == 2
    assert cost["flops"]["training"] > 0


def test_a_target_matches_by_the_end_of_its_dotted_name(case: Callable) -> None:
    backbone = case("full").model.backbone
    seen: list[torch.nn.Linear] = []

    def wrap(linear: torch.nn.Linear) -> torch.nn.Module:
        seen.append(linear)
        return linear

    replace_linears(backbone, ["attention.output.dense"], wrap)
    assert len(seen) == LAYERS
    replace_linears(backbone, ["dense"], wrap)
    assert len(seen) == LAYERS + 3 * LAYERS


def test_a_target_may_be_an_expression_for_whole_names(case: Callable) -> None:
    backbone = case("full").model.backbone
    outputs = target_linears(backbone, [r".*layer\.\d+\.output\.dense|.*mlp\.c_proj"])
    assert list(outputs) == [f"encoder.layer.{i}.output.dense" for i in range(LAYERS)]
    assert len(target_linears(backbone, [r".*\.output\.dense"])) == 2 * LAYERS
    with pytest.raises(ValueError, match=r"No linear layer is named 'k\|v'"):
        target_linears(backbone, ["k|v"])
    with pytest.raises(ValueError, match="'\\(query' is no regular expression"):
        target_linears(backbone, ["(query"])


def test_the_processors_seconds_do_not_count_what_others_do(tmp_path: Path) -> None:
    cost, clock = Cost(), Clock(torch.device("cpu"))
    with measure(torch.device("cpu"), cost):
        clock.start()
        time.sleep(0.2)
        clock.stop()
    assert cost.seconds >= 0.2
    assert clock.steps[0] >= 0.2
    assert cost.processor_seconds < 0.1
    assert clock.processor_seconds < 0.1
