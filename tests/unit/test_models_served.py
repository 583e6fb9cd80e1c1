"""Every model that has a YAML, from the hub it names: run.py as typed, on a tiny random model."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, BERT, save_t5
from conftest import ROOT
from hub_shell import Shell, write_sentences
from omegaconf import OmegaConf
from served_hub import commit, served
from transformers import AutoConfig, AutoModel, AutoTokenizer

from experiments.disk.files import hash_file
from experiments.models.files import weight_files

pytestmark = pytest.mark.thorough

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 140}
TASK = ("data=hub", "task=sst2")
KNOWN: dict[str, dict[str, Any]] = ARCHITECTURES | {
    "roberta_base": {"model_type": "roberta", **BERT},
    "roberta_large": {"model_type": "roberta", **BERT},
    "gpt2": GPT2, "gpt2_medium": GPT2, "gpt2_large": GPT2,
    "t5_base": {},
}  # fmt: skip
PACKED = KNOWN.keys() - {"deberta_v3_base", "modernbert_base", "distilbert", "t5_base"}
GENERATES = {"t5_base": ("data=mini", "data.train=32", "data.test=4", "task=e2e",
                          "task.metrics=[BLEU]", "task.decoding.max_tokens=4")}  # fmt: skip
FEW = (
    "train.epochs=1", "train.batch_size=16", "train.max_length=32",
    "compute.device=cpu", "variant=lora", "variant.rank=2", "tracker.mode=disabled",
)  # fmt: skip


def hub_id(name: str) -> str:
    """The repository that a model's YAML names."""
    return OmegaConf.load(ROOT / f"conf/model/{name}.yaml").path


def save(settings: dict[str, Any], tokenizer: Path, folder: Path) -> None:
    """A tiny random model of this architecture, its weights and its tokenizer."""
    torch.manual_seed(0)
    own = AutoTokenizer.from_pretrained(tokenizer)
    ids = {f"{name}_token_id": getattr(own, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = AutoConfig.for_model(**settings | ids | {"vocab_size": len(own)})
    AutoModel.from_config(config).save_pretrained(folder)
    own.save_pretrained(folder)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Iterator[Shell]:
    """run.py in a process that knows one hub, with every model and GLUE under their own names."""
    root = tmp_path_factory.mktemp("hub")
    write_sentences(root / "glue")
    repositories = {"datasets/nyu-mll/glue": root / "glue"}
    for name, settings in KNOWN.items():
        if name in GENERATES:
            save_t5(root / name)
        else:
            save(settings, tiny("roberta"), root / name)
        repositories[f"models/{hub_id(name)}"] = root / name
    with served(repositories) as server:
        shell = Shell(tmp_path_factory.mktemp("shell"), server.endpoint)
        yield shell
        shell.process.communicate()


def test_every_yaml_that_names_a_hub_is_here() -> None:
    yamls = {
        path.stem: OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        for path in (ROOT / "conf/model").glob("*.yaml")
    }
    from_a_hub = {
        name
        for name, yaml in yamls.items()
        if yaml["package"] is None and re.fullmatch(r"[\w.-]+/[\w.-]+", yaml["path"])
    }
    assert from_a_hub == KNOWN.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_a_model_comes_from_its_hub_and_trains(name: str, shell: Shell) -> None:
    result = shell.result(shell(f"model={name}", *FEW, *GENERATES.get(name, TASK)))
    assert result["status"] == "complete" and result["label"]["model"] == name
    assert result["cost"]["steps"]["steps"] == 2
    assert result["provenance"]["engine"] == ("packed" if name in PACKED else "transformers")
    repository = f"models/{hub_id(name)}"
    folder = shell.cache(repository) / "snapshots" / commit(repository)
    assert result["fingerprint"]["model"] == hash_file(weight_files(folder)[0])
