"""Tiny random models of every family, and runs on the built-in suite."""

import logging
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from permissions import public  # noqa: F401 (a fixture)
from promised import require
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from experiments.data.batches import Batch, encode
from experiments.mini.passages import passages
from experiments.models.model import Model
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read
from experiments.training import measure

os.environ.setdefault("WANDB_MODE", "disabled")
torch.set_num_threads(1)
measure.PASSES = 3  # how long a forward pass takes is of no interest here

# Left out by `make quick`: these folders, and all families and precisions but one.
THOROUGH = ("cli", "study")
FIRST = {"family": "roberta", "precision": "fp32"}

ROOT = Path(__file__).parents[1]
VARIANTS = sorted(path.stem for path in (ROOT / "conf/variant").glob("*.yaml"))
PRESET = {"roberta": "roberta_base", "bert": "minilm", "gpt2": "gpt2", "llama": "smollm2"}
# What a method cannot do on a family; its own tests say that it refuses.
REFUSED = {("bitfit", "llama"): "Llama has no biases to train."}
QUICK = (
    "data.train=64",
    "data.dev=32",
    "train.epochs=3",
    "tracker.mode=disabled",
    "compute.device=cpu",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make quick` leaves out."""
    for item in items:
        chosen = item.callspec.params if hasattr(item, "callspec") else {}  # pyright: ignore
        further = any(chosen.get(name, first) != first for name, first in FIRST.items())
        if item.path.parent.name in THOROUGH or further:
            item.add_marker("thorough")


NAMED = ("variant", "name")  # what parameters with a method are called


@pytest.fixture(autouse=True)
def promises_kept(request: pytest.FixtureRequest) -> None:
    """A test of the contract says first which promise its method breaks, if it breaks one."""
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if request.path.parent.name == "contract" and request.path.stem != "test_promises":
        for method in {params.get(name) for name in NAMED} & set(VARIANTS):
            require(method)


def roberta_tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


def bert_tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def gpt2_tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(ids, unk_token="<|endoftext|>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        model_input_names=["input_ids", "attention_mask"],
    )


@cache
def vocabulary() -> list[str]:
    """The words of the built-in suite, as the tiny tokenizers split them."""
    texts = (sentence for passage in islice(passages(0), 10000) for sentence in passage)
    return sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text.lower())})


def save_tiny(family: str, folder: Path) -> None:
    """A two-layer model of random weights with the tokenizer that fits it."""
    words = vocabulary()
    special = {
        "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        "gpt2": ["<|endoftext|>"],
        "llama": ["<|endoftext|>"],
    }[family]
    ids = {word: i for i, word in enumerate([*special, *words])}
    build = {"roberta": roberta_tokenizer, "bert": bert_tokenizer}.get(family, gpt2_tokenizer)
    build(ids).save_pretrained(folder)
    torch.manual_seed(0)
    encoder = {
        "vocab_size": len(ids), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 140,
    }  # fmt: skip
    if family == "roberta":
        model = RobertaModel(RobertaConfig(**encoder, type_vocab_size=1), add_pooling_layer=False)
    elif family == "bert":
        model = BertModel(BertConfig(**encoder))
    elif family == "llama":
        tokens = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
        groups = {"num_key_value_heads": 2, "tie_word_embeddings": True}
        model = LlamaModel(LlamaConfig(**encoder | {"hidden_size": 64} | tokens | groups))
    else:
        model = GPT2Model(
            GPT2Config(vocab_size=len(ids), n_embd=32, n_layer=2, n_head=4, n_positions=140)
        )
    for parameter in model.parameters():  # biases are zero by default, and would hide mistakes
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model by family."""
    folders: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            save_tiny(family, folders[family])
        return folders[family]

    return folder


@dataclass
class Case:
    """A variant adapted to a tiny model, with a batch to look at."""

    run: Run
    model: Model
    batch: Batch


@pytest.fixture(scope="session")
def tiny_run(tiny: Callable[[str], Path]) -> Callable[..., Run]:
    """A run of a variant on a tiny model and generated sentences."""

    @cache  # composing takes longer than most of what is tested; a run is immutable
    def make(variant: str, *overrides: str, family: str = "roberta") -> Run:
        model = [f"model={PRESET[family]}", f"model.path={tiny(family)}", "model.lr_scale=1.0"]
        if family in ("bert", "llama"):
            model += ["model.package=null", "model.sha256=null"]
        return read(compose_config(f"variant={variant}", *model, *QUICK, *overrides))

    return make


@pytest.fixture(scope="session")
def cases() -> dict[str, tuple[Model, Batch]]:
    """What `case` has loaded, by all that it depends on."""
    return {}


@pytest.fixture
def case(
    tiny_run: Callable[..., Run], cases: dict[str, tuple[Model, Batch]]
) -> Callable[..., Case]:
    """A run's model, pretrained and not adapted yet, in evaluation mode."""

    def make(
        variant: str, *overrides: str, family: str = "roberta", precision: str | None = None
    ) -> Case:
        if (variant, family) in REFUSED:
            pytest.skip(REFUSED[variant, family])
        run = tiny_run(variant, *overrides, family=family)
        if precision is not None:  # quicker than as an override, which is composed anew
            run = replace(run, train=replace(run.train, precision=precision))
        key = repr((run.model, run.task, run.data, run.train.precision, run.train.max_length))
        if key not in cases:
            cases[key] = load_case(run)
        model, batch = cases[key]
        return Case(run, deepcopy(model), batch)

    return make


def load_case(run: Run) -> tuple[Model, Batch]:
    """The pretrained model of a run, and the first examples."""
    generator = torch.Generator().manual_seed(0)
    loaded = run.model.load(run.task.num_outputs, generator, run.train.precision)
    split = run.task.load(run.data).train
    encoded = encode(loaded.tokenizer, split, run.train.max_length)
    return loaded.model.eval(), encoded.batch(split.ids[:8])


@dataclass
class Answer:
    """What a command left on the screen, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The one line for the user: Hydra says above it which run, below it how to see more."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return lines[-2] if lines[-1].startswith("Set the environment variable") else lines[-1]


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Take away what Hydra sets up of logging for a process: a test's streams end with it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [one for one in root.handlers if one not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """`python run.py ...` in a folder of its own, without the seconds a new process takes."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, script: Path = ROOT / "run.py") -> Answer:
        monkeypatch.setattr("sys.argv", [str(script), *arguments])
        capfd.readouterr()
        code = 0
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):  # as the interpreter does
                print(stop.code, file=sys.stderr)
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return call
