"""Any model that transformers loads: by a YAML of its own, and by `model=auto`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from conftest import ROOT
from transformers import AutoConfig, AutoModel, AutoTokenizer

from experiments.adapters import saved
from experiments.adapters.merged import write_merged
from experiments.families.base import family_of
from experiments.models.pretrained import READS
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import read

FEW = (
    "data.train=32", "data.dev=16", "train.epochs=1", "train.batch_size=16", "compute.device=cpu",
    "tracker.mode=disabled", "variant.rank=2",
)  # fmt: skip
# The architecture of each model that has a YAML, tiny.
OLDER = {"auto", "gpt2_large", "gpt2_medium", "gpt2", "mini_gpt2", "mini_roberta", "minilm",
         "roberta_base", "roberta_large", "smollm2", "t5_base"}  # fmt: skip


@pytest.fixture
def tiny_model(tiny: Callable[[str], Path], tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """The folder of a tiny random model of any architecture."""

    def save(settings: dict[str, Any]) -> Path:
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(tiny("roberta"))
        ids = {
            "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        }  # fmt: skip
        model = AutoModel.from_config(AutoConfig.for_model(**settings | ids))
        model.save_pretrained(tmp_path / "tiny")
        tokenizer.save_pretrained(tmp_path / "tiny")
        return tmp_path / "tiny"

    return save


def test_every_model_with_a_yaml_is_tried_here_or_elsewhere() -> None:
    known = {path.stem for path in (ROOT / "conf/model").glob("*.yaml")}
    assert known == ARCHITECTURES.keys() | OLDER


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_is_trained_and_read_back(
    tiny_model: Callable[[dict[str, Any]], Path], tmp_path: Path, name: str
) -> None:
    folder = tiny_model(ARCHITECTURES[name])
    run = read(compose_config(f"model={name}", f"model.path={folder}", "variant=lora", *FEW))
    result = execute(run, tmp_path / "run")
    assert result.status == "complete" and result.label["model"] == name
    packed = family_of(AutoConfig.from_pretrained(folder)).packed
    assert result.provenance["engine"] == ("packed" if packed else "transformers")
    trained = saved.restore(tmp_path / "run")
    split = trained.run.protocol.load(trained.run.task, trained.run.data).score["dev"]
    outputs = trained.run.task.evaluate(trained.loaded, split, trained.run.train).outputs
    assert trained.run.task.score(split.labels, outputs) == pytest.approx(result.scores["dev"])


@pytest.mark.parametrize("group", ["attention", "all"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_named_groups_are_layers_of_the_model(
    tiny_model: Callable[[dict[str, Any]], Path], name: str, group: str
) -> None:
    folder = tiny_model(ARCHITECTURES[name])
    overrides = (f"model={name}", f"model.path={folder}", "variant=lora")
    run = read(compose_config(*overrides, "variant.targets=${model.linears." + group + "}", *FEW))
    backbone = run.model.backbone()
    run.variant.adapt(backbone)
    adapted = sum(p.requires_grad for p in backbone.parameters())
    per_block = {"attention": 2, "all": 8}[group]  # at least so many tensors, A and B of each layer
    assert adapted >= 2 * per_block


@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
def test_auto_takes_any_folder_and_names_itself_after_it(
    tiny: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    folder = tiny(kind)
    run = read(compose_config("model=auto", f"model.path={folder}", "variant=dora", *FEW))
    assert run.model.name == folder.name
    result = execute(run, tmp_path / "run")
    assert result.status == "complete" and result.provenance["engine"] == "packed"


@pytest.mark.parametrize("reads", READS)
def test_a_head_reads_what_it_is_told_to(
    tiny: Callable[[str], Path], tmp_path: Path, reads: str
) -> None:
    overrides = ("model=auto", f"model.path={tiny('roberta')}", f"model.head={reads}", *FEW)
    result = execute(read(compose_config(*overrides, "variant=lora")), tmp_path / "run")
    trained = saved.restore(tmp_path / "run")
    model = trained.loaded.model
    split = trained.run.protocol.load(trained.run.task, trained.run.data).score["dev"]
    batch = trained.run.task.encode(trained.loaded.tokenizer, split, 64).batch(np.arange(5))
    with torch.no_grad():
        states = model.backbone(**batch.inputs).last_hidden_state
        rows = [one[: int(n)] for one, n in zip(states, batch.lengths, strict=True)]
        read_of = {"first": lambda x: x[0], "last": lambda x: x[-1], "mean": lambda x: x.mean(0)}
        expected = model.head(torch.stack([read_of[reads](row) for row in rows]))
        torch.testing.assert_close(model(batch), expected, rtol=1e-5, atol=1e-6)
    assert result.config["model"]["head"] == reads
    with pytest.raises(ValueError, match=f"model.head={reads} makes a head"):
        write_merged(saved.read_adapter(tmp_path / "run"), tmp_path / "merged")


def test_a_head_that_is_none_is_named(tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="one of first, last, mean, got 'max'"):
        read(compose_config("model=auto", f"model.path={tiny('roberta')}", "model.head=max", *FEW))


def test_a_model_of_no_family_says_what_was_adapted_and_what_was_left(
    tiny_model: Callable[[dict[str, Any]], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_model(ARCHITECTURES["distilbert"])
    execute(
        read(compose_config("model=auto", f"model.path={folder}", "variant=lora", *FEW)), tmp_path
    )
    said = capsys.readouterr().out
    assert "adapted  2 x transformer.layer.*.attention.q_lin Linear [32, 32]\n" in said
    assert "2 x transformer.layer.*.ffn.lin1 Linear [48, 32], frozen\n" in said


def test_a_head_where_the_task_has_none_is_refused(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    model = ("model=auto", f"model.path={tiny('gpt2')}", "model.head=mean")
    run = read(compose_config("task=e2e", *model, "variant=lora", *FEW))
    with pytest.raises(ValueError, match=r"model\.head=mean is of no use to task 'e2e'"):
        execute(run, tmp_path / "run")
