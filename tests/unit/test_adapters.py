"""Adapters as one keeps them: saved, loaded, merged, swapped, and their errors."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn as nn
from cases import FAMILIES, keep, logits, trained
from conftest import VARIANTS, Case
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from experiments.adapters import __main__ as command
from experiments.adapters import saved
from experiments.adapters.merged import write_merged
from experiments.adapters.swap import Switch
from experiments.running.runner import execute

pytestmark = pytest.mark.thorough

IN_A_NEW_PROCESS = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from experiments.adapters.saved import load, read_adapter
from experiments.data.batches import Batch
import torch, transformers
torch.set_num_threads(1)
root = Path(sys.argv[1])
for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    model = load(read_adapter(folder)).model
    columns = load_file(folder / "columns")
    lengths = columns.pop("lengths").numpy()
    with torch.no_grad():
        logits = model(Batch(columns, lengths, None, lengths, {}))
    save_file({"logits": logits, **model.head.state_dict()}, folder / "found")
"""


@pytest.mark.slow
def test_a_new_process_gives_the_same_outputs_and_head(
    case: Callable[..., Case], tmp_path: Path
) -> None:
    expected = {}
    for i, name in enumerate(VARIANTS):  # each method, and the families and precisions in turn
        made = trained(case, name, FAMILIES[i % 3], ("fp32", "bf16")[i % 2])
        folder = keep(made, tmp_path / name)
        lengths = {"lengths": torch.from_numpy(made.batch.lengths)}
        save_file(made.batch.columns | lengths, folder / "columns")
        head = {k: t.clone() for k, t in made.model.head.state_dict().items()}
        expected[name] = {"logits": logits(made), **head}
    subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path)], check=True)
    for name, tensors in expected.items():
        found = load_file(tmp_path / name / "found")
        assert found.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert torch.equal(found[key], tensor), f"{name}: {key}"


@pytest.mark.parametrize(
    ("variant", "family"),
    [(name, FAMILIES[i % 3]) for i, name in enumerate(VARIANTS)]
    + [(name, family) for name in ("lora", "full") for family in FAMILIES],
)
def test_a_merged_folder_is_read_by_from_pretrained(
    case: Callable[..., Case], variant: str, family: str, tmp_path: Path
) -> None:
    made = trained(case, variant, family)
    write_merged(saved.read_adapter(keep(made, tmp_path / "adapter")), tmp_path / "merged")
    plain, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert plain.config.id2label == {0: "negative", 1: "positive"}
    inputs = dict(made.batch.inputs)
    # transformers' GPT-2 finds the last token by the padding, not by the mask.
    padding = torch.full_like(inputs["input_ids"], plain.config.pad_token_id)
    inputs["input_ids"] = torch.where(inputs["attention_mask"] > 0, inputs["input_ids"], padding)
    with torch.no_grad():
        found = plain.eval()(**inputs).logits
    torch.testing.assert_close(found, logits(made), rtol=1e-4, atol=1e-5)


def test_a_merged_folder_is_rounded_once(case: Callable[..., Case], tmp_path: Path) -> None:
    made = trained(case, "lora", "roberta")
    adapter = saved.read_adapter(keep(made, tmp_path / "adapter"))
    write_merged(adapter, tmp_path / "merged", "bfloat16")
    plain = load_file(tmp_path / "merged" / "model.safetensors")
    layer = made.model.backbone.get_submodule("encoder.layer.0.attention.self.query")
    weight = plain["roberta.encoder.layer.0.attention.self.query.weight"]
    assert torch.equal(weight, layer.merged_weight().to(torch.bfloat16))


def test_nothing_is_written_over(case: Callable[..., Case], tmp_path: Path) -> None:
    adapter = saved.read_adapter(keep(trained(case, "lora", "roberta"), tmp_path / "adapter"))
    with pytest.raises(ValueError, match="is not empty"):
        write_merged(adapter, tmp_path / "adapter")
    assert saved.read_adapter(tmp_path / "adapter").state.keys() == adapter.state.keys()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_are_switched_by_name_and_back_bit_for_bit(
    case: Callable[..., Case], tmp_path: Path, precision: str
) -> None:
    bare = case("lora", f"train.precision={precision}")
    base = bare.run.model
    switch, alone, batch = Switch(base, precision), {}, bare.batch
    for variant in VARIANTS:
        made = trained(case, variant, "roberta", precision)
        alone[variant] = logits(made)
        switch.add(variant, saved.read_adapter(keep(made, tmp_path / variant)))
    with torch.no_grad():
        alone[None] = bare.model.states(batch, np.arange(batch.tokens))
        for name in [*VARIANTS, None, *reversed(VARIANTS), None]:
            found = switch.use(name)(batch)
            assert torch.equal(found, alone[name].to(found.dtype)), name


def test_switching_shares_the_base(case: Callable[..., Case], tmp_path: Path) -> None:
    made = trained(case, "lora", "roberta")
    adapter = saved.read_adapter(keep(made, tmp_path / "a"))
    switch = Switch(made.run.model)
    name = "encoder.layer.0.attention.self.query"
    weight = switch.backbone.get_submodule(name).weight
    for own in ("one", "other"):
        switch.add(own, adapter)
        switch.use(own)
        assert switch.backbone.get_submodule(name).base.weight is weight
    assert {id(p) for p in switch.backbone.parameters()} >= {id(weight)}


def test_an_adapter_of_all_parameters_leaves_the_base_in_its_precision(
    case: Callable[..., Case], tmp_path: Path
) -> None:
    made = trained(case, "full", "roberta", "bf16")
    switch = Switch(made.run.model, "bf16")
    before = {name: p.dtype for name, p in switch.backbone.named_parameters()}
    switch.add("whole", saved.read_adapter(keep(made, tmp_path / "a")))
    assert torch.bfloat16 in before.values()
    assert {name: p.dtype for name, p in switch.backbone.named_parameters()} == before


def test_an_adapter_that_does_not_fit_leaves_the_switch_as_it_was(
    case: Callable[..., Case], tmp_path: Path
) -> None:
    made = trained(case, "full", "roberta")
    adapter = saved.read_adapter(keep(made, tmp_path / "a"))
    switch = Switch(made.run.model)
    before = {name: tensor.clone() for name, tensor in switch.backbone.state_dict().items()}
    shorter = dict(list(adapter.state.items())[1:])
    with pytest.raises(ValueError, match="missing"):
        switch.add("broken", replace(adapter, state=shorter))
    after = switch.backbone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    with pytest.raises(ValueError, match="no adapter 'broken'; added are: none"):
        switch.use("broken")
    switch.add("whole", adapter)
    with pytest.raises(ValueError, match="'whole' already"):
        switch.add("whole", adapter)
    with pytest.raises(ValueError, match="belongs to weights"):
        switch.add("other", replace(adapter, weights="0" * 64))


def damage(folder: Path, how: str) -> None:
    path = folder / "adapter.safetensors"
    about = json.loads((folder / "adapter.json").read_text())
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif how == "no description":
        (folder / "adapter.json").unlink()
    elif how == "other base":
        about["weights"] = "0" * 64
    elif how == "other format":
        about["format"] = 99
    elif how == "unknown setting":
        about["variant"]["ranks"] = 3
    elif how == "other rank":
        about["variant"]["rank"] = 3
    else:
        tensors = load_file(path)
        first = min(tensors)
        if how == "missing tensor":
            del tensors[first]
        elif how == "further tensor":
            tensors["more"] = torch.zeros(1)
        save_file(tensors, path)
    if how != "no description":
        (folder / "adapter.json").write_text(json.dumps(about))


DAMAGE = {
    "truncated": r"adapter\.safetensors cannot be read .*made again",
    "no description": r"holds no adapter: there is no adapter\.json",
    "other base": "was trained on weights with sha256 0000",
    "other format": "has format 99, and this version reads 1",
    "unknown setting": "no setting 'ranks'. Did you mean 'rank'",
    "other rank": r"adapter\.safetensors does not fit its model: Tensor '.*' has shape",
    "missing tensor": "does not fit its model: .*missing encoder",
    "further tensor": "does not fit its model: .*unexpected more",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_adapter_is_one_clear_error(
    case: Callable[..., Case], tmp_path: Path, how: str
) -> None:
    folder = keep(trained(case, "lora", "roberta"), tmp_path / "adapter")
    damage(folder, how)
    with pytest.raises(ValueError, match=DAMAGE[how]):
        saved.load(saved.read_adapter(folder))


def test_a_base_moved_elsewhere_is_found_by_its_new_folder(
    case: Callable[..., Case], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    made = trained(case, "lora", "roberta")
    adapter = saved.read_adapter(keep(made, tmp_path / "adapter"))
    moved = replace(adapter, model=replace(adapter.model, path=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="nowhere"):
        saved.load(moved)
    found = saved.load(saved.on_base(moved, str(tiny("roberta")))).model
    with torch.no_grad():
        assert torch.equal(found(made.batch), logits(made))
    with pytest.raises(ValueError, match="now has"):
        saved.load(saved.on_base(moved, str(tiny("bert"))))


def test_loading_draws_nothing_from_the_global_generator(
    case: Callable[..., Case], tmp_path: Path
) -> None:
    adapter = saved.read_adapter(keep(trained(case, "lora", "roberta"), tmp_path / "adapter"))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    model = saved.load(adapter).model
    assert isinstance(model, nn.Module)
    assert torch.equal(torch.rand(1), expected)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`python -m experiments.adapters ...`: what it prints, or the error it exits with."""

    def call(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["adapters", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            command.main()
        except SystemExit as stop:
            return str(stop.code)
        return capsys.readouterr().out

    return call


def test_a_run_is_an_adapter_for_the_command_line(
    tiny_run: Callable, tiny: Callable[[str], Path], tmp_path: Path, ask: Callable[..., str]
) -> None:
    execute(tiny_run("dora"), tmp_path / "run")
    run, plain, theirs, back = (tmp_path / name for name in ("run", "plain", "peft", "back"))
    shown = ask("inspect", run)
    for part in ("dora", "rank", "2 query, 2 value", "2 outputs negative, positive", "fp32"):
        assert part in shown
    assert "from_pretrained" in ask("merge", run, plain, "--dtype", "bfloat16")
    assert load_file(plain / "model.safetensors")["classifier.dense.weight"].dtype == torch.bfloat16
    assert "num_labels=2" in ask("export", run, theirs)
    asked = ("import", theirs, back, "--model", "roberta_base", "--base", tiny("roberta"))
    assert "holds the adapter" in ask(*asked)
    ours, again = saved.read_adapter(run), saved.read_adapter(back)
    assert all(torch.equal(again.state[name], tensor) for name, tensor in ours.state.items())
    assert "not empty" in ask(*asked)


def test_the_command_line_says_what_is_wrong(
    tiny: Callable[[str], Path], tmp_path: Path, ask: Callable[..., str]
) -> None:
    assert (
        ask("inspect", tmp_path)
        == f"error: {tmp_path} holds no adapter: there is no adapter.json in it."
    )
    base = ("--model", "roberta_base", "--base", tiny("roberta"))
    assert "neither a folder with" in ask("import", tmp_path / "nothing", tmp_path / "out", *base)
    (tmp_path / "lora.bin").write_bytes(b"")
    assert "give --alpha" in ask("import", tmp_path / "lora.bin", tmp_path / "out", *base)
    assert "cannot be read" in ask(
        "import", tmp_path / "lora.bin", tmp_path / "out", *base, "--alpha", 16
    )
    assert not (tmp_path / "out").exists()
