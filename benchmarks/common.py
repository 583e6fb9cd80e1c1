"""Shared parts of the training benchmarks: composing runs, our steps, and printing results."""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peers import PEERS
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from experiments.data.splits import Data, Split
from experiments.machine.processor import configure_products, multiplying, processor_name
from experiments.machine.randomness import seed_everything
from experiments.running.job import PreparedRun, prepare_run
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read
from experiments.settings.sections import build
from experiments.training.loop import Stepper, TrainingListener
from experiments.training.probe import ProbeRun

PADDING = (
    "Most of the gain over A is padding: A computes every text at 128 tokens. "
    "A' pads to the longest text of the batch, and B is the best-tuned peer."
)
# Batches are what is measured: enough examples for many of them, few enough to read soon.
STEPS = ["train.batch_size=32", "train.examples=4096", "train.epochs=4"]
TOLERANCE = 0.05  # of A/A, above which nothing is claimed

# The published sizes, for models of random weights; padding is token 0, as in BERT's tokenizer.
ENCODER: dict[str, Any] = {
    "type_vocab_size": 1,
    "max_position_embeddings": 514,
    "vocab_size": 50265,
}
LARGE: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
SIZES: dict[str, tuple[type[PreTrainedModel], PreTrainedConfig]] = {
    "roberta_base": (RobertaModel, RobertaConfig(**ENCODER, pad_token_id=0)),
    "roberta_large": (
        RobertaModel,
        RobertaConfig(**ENCODER, **LARGE, intermediate_size=4096, pad_token_id=0),
    ),
    "gpt2": (GPT2Model, GPT2Config(pad_token_id=0)),
    "gpt2_medium": (GPT2Model, GPT2Config(n_embd=1024, n_layer=24, n_head=16, pad_token_id=0)),
    "gpt2_large": (GPT2Model, GPT2Config(n_embd=1280, n_layer=36, n_head=20, pad_token_id=0)),
}


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every training benchmark."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="the folder that holds SST-2/ and MRPC/")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "mrpc"])
    parser.add_argument("--model", default="minilm", help="a file in conf/model")
    parser.add_argument("--random", action="store_true", help="of its size, with random weights")
    parser.add_argument("--tokenizer", help="folder, for --random; without it MiniLM's")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--set", nargs="+", default=[], help="overrides for us and the peers")
    parser.add_argument("--bf16", action="store_true", help="ours in bf16 too")
    parser.add_argument(
        "--ours", action="append", default=[], metavar="'OVERRIDE ...'",
        help="one more configuration of ours; may be given again",
    )  # fmt: skip
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def step_arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that also has the options of the benchmarks of single steps."""
    parser = arguments(doc)
    parser.add_argument("--padded", type=int, metavar="T", help="texts of T tokens, no padding")
    return parser


def peers(given: argparse.Namespace) -> list[str]:
    """The peers asked for; where no text has padding, one with a width of its own is left out."""
    padded = getattr(given, "padded", None) is not None
    return [name for name in given.peers if not padded or PEERS[name].width is None]


def forms(given: argparse.Namespace) -> dict[str, list[str]]:
    """Our configurations by name, each as its overrides."""
    asked = ["", *(["train.precision=bf16"] if given.bf16 else []), *given.ours]
    return {" ".join(["ours", *map(short, one.split())]): one.split() for one in asked}


def short(override: str) -> str:
    """An override without its section; a precision's name says enough."""
    key, _, value = override.partition("=")
    return value if key == "train.precision" else f"{key.rpartition('.')[2]}={value}"


def composed_run(given: argparse.Namespace, task: str, settings: list[str], *own: str) -> Run:
    """The run of one task on real data."""
    return read(compose_config(*overrides(given, task, settings, *own)))


def overrides(given: argparse.Namespace, task: str, settings: list[str], *own: str) -> list[str]:
    """The run as a command says it; what the command line sets wins over the settings."""
    common = ["data=local", f"data.dir={given.data}", "tracker.mode=disabled"]
    common += [f"task={task}", f"model={given.model}", f"compute.device={given.device}"]
    return merged([*common, *settings, *given.set, *own])


def step_run(given: argparse.Namespace, task: str, *own: str) -> Run:
    """A run of which single steps are measured; texts of one length make one part."""
    shape = [f"train.max_length={given.padded}", "train.accumulate=1"]
    return composed_run(given, task, [*STEPS, *(shape if given.padded else [])], *own)


def merged(overrides: list[str]) -> list[str]:
    """The overrides with the last one of every key, since Hydra takes no group twice."""
    return list({one.partition("=")[0]: one for one in overrides}.values())


@contextmanager
def model_of(given: argparse.Namespace) -> Iterator[None]:
    """With --random, put a model of random weights in the place of the pretrained one."""
    if not given.random:
        yield
        return
    with TemporaryDirectory() as folder:
        save_random(given.model, Path(folder), given.tokenizer)
        given.set = [f"model.path={folder}", "model.package=null", "model.sha256=null", *given.set]
        yield


def save_random(name: str, folder: Path, tokenizer: str | None) -> None:
    """A model of a published size with random weights, which serve for time and memory."""
    if name not in SIZES:
        raise ValueError(f"--random knows the sizes {', '.join(SIZES)}, got '{name}'.")
    cls, config = SIZES[name]
    torch.manual_seed(0)
    model = cls(config, **({"add_pooling_layer": False} if cls is RobertaModel else {}))
    model.save_pretrained(folder)
    source = tokenizer or build("model", compose_config("model=minilm").model).folder()
    # Neither family has types of tokens.
    names = ["input_ids", "attention_mask"]
    AutoTokenizer.from_pretrained(source, model_input_names=names).save_pretrained(folder)


def data_of(run: Run, padded: int | None) -> Data:
    """The task's data, or as many texts that fill `padded` tokens each, so that nothing is pad."""
    data = run.task.load(run.data)
    return data if padded is None else replace(data, train=stretched(data.train, padded))


def stretched(split: Split, tokens: int) -> Split:
    """The split with every text repeated until it is cut: a word is one token or more."""
    texts = [
        tuple(" ".join((text.split() or ["."]) * tokens) for text in example)
        for example in split.texts[:2048]
    ]
    return replace(split.take(split.ids[:2048]), texts=texts)


@dataclass(frozen=True)
class Ours:
    """Our engine, one step at a time; what a method prepares is behind it."""

    name: str
    job: PreparedRun
    stepper: Stepper

    def ready(self, number: int) -> Any:
        """A step puts its own batch together."""
        return number

    def step(self, number: int) -> Tensor:
        job = self.job
        with (
            configure_products(job.products, job.threads),
            multiplying(job.device, job.run.train.precision),
        ):
            return self.stepper.step(number, TrainingListener())[0]

    @property
    def modules(self) -> torch.nn.Module:
        return self.job.loaded.model


def ours(name: str, run: Run, data: Data) -> Ours:
    """A run ready for its first step."""
    job = prepare_run(run, data)
    model, seed = job.loaded.model, run.seed
    run.variant.prepare(
        model.backbone, ProbeRun(model, run.variant, job.examples, job.plan, seed).probe()
    )
    seed_everything(seed)
    return Ours(name, job, Stepper(model, run.variant, job.batches, job.plan))


def quoted(values: list[float]) -> dict[str, float]:
    """The median, and the extremes beside it."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def text(ratio: dict[str, float]) -> str:
    """A ratio as it is printed."""
    return f"{ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]"


def inverse(ratio: dict[str, float]) -> dict[str, float]:
    """The ratio the other way round."""
    ends = {"min": 1 / ratio["max"], "max": 1 / ratio["min"]}
    return {"median": 1 / ratio["median"], **ends}


def claim(same: float) -> str:
    """Say whether ratios can be claimed, from the ratio of a configuration to itself."""
    noisy = abs(same - 1) > TOLERANCE
    verdict = "noisy: no ratio is claimed" if noisy else "the ratios hold within that"
    return f"A/A {same:.3f}; {verdict}."


def saved_bytes(compute: Callable[[], Tensor], known: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass, each storage once, `known` tensors not."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = compute()  # while it lives no storage is used twice
    del held
    return sum(kept.values())


def load() -> float:
    """The machine's load average over the last minute."""
    return round(os.getloadavg()[0], 2)


def machine(device: torch.device) -> dict[str, Any]:
    """Return the facts of the machine; figures can be compared only if these are equal."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def footnote(given: argparse.Namespace) -> None:
    """Say what the comparison with A is made of, where it was made."""
    if "A" in peers(given):
        print(PADDING)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table: words to the left, figures to the right."""
    shown = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for i, column in enumerate(columns):
        shown.add_column(column, justify="right" if i else "left", no_wrap=not i)
    for row in rows:
        shown.add_row(*row)
    Console(width=max(Console().width, 180)).print(shown)  # as whole lines in a file


def write(path: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures if they were asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
