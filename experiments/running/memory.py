"""Forecast the peak memory of a run from its sizes, before its weights are read.

The model is laid out without its numbers (on PyTorch's meta device) and adapted there, so weights,
gradients and moments are counted and not guessed. Activations are what one block keeps of a token,
which each family says of its passes (`Kept`), times the tokens of a large batch.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedTokenizerBase

from experiments.backbones.language import CHUNK
from experiments.backbones.layers import PRECISIONS, float_masters, store_matrices
from experiments.data.splits import Data
from experiments.families.base import Family, Kept, family_of
from experiments.models.files import weight_files
from experiments.models.loading import read_tokenizer
from experiments.settings.config import Run
from variants.base import adapter_layers

log = logging.getLogger(__name__)
GIB = 2**30
MUCH = 0.6  # share of the machine's memory above which a forecast is told
LATER = 160 * 2**20  # what libraries take when they are first used: kernels, plans of products
HOLES = 1.2  # of memory that was freed between pieces that are still held
SAMPLE, BATCHES = 256, 50  # rows that are tokenised, and batches drawn of them
FLOAT = 4  # bytes
MOMENTS = 3  # numbers beside each trained one: its gradient and AdamW's two moments
PASSING = (4.0, 2.0)  # values of a token that one block holds for a moment: widths, inner widths


@dataclass(frozen=True)
class Load:
    """A large batch as it is computed at once: its token positions, padding included."""

    tokens: int
    longest: int  # text


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes at the peak of training, by what holds them."""

    process: float  # Python and its libraries, as they are now
    weights: float  # as they are stored, and the file that they were read from
    training: float  # gradients, moments, and float32 masters
    activations: float  # kept for the backward pass, and what one block holds beside
    output: float  # logits of a chunk of targets, and the gradient of a table that trains
    complete: bool = True  # False: the method cannot be laid out without numbers and is left out

    @property
    def total(self) -> float:
        """All of it."""
        return self.process + self.weights + self.training + self.activations + self.output


def outline(run: Run) -> tuple[nn.Module, bool]:
    """The adapted backbone without numbers, and whether the method could be laid out.

    Raises ValueError for targets that the model does not have, as the run itself would.
    """
    config = run.model.config()
    family = family_of(config)
    with torch.device("meta"):
        backbone = AutoModel.from_config(config, **family.loading(config))
        family.plain(backbone)
        store_matrices(backbone, PRECISIONS[run.train.precision])
        complete = adapt_outline(run, backbone)
    float_masters(backbone)
    return backbone, complete


def adapt_outline(run: Run, backbone: nn.Module) -> bool:
    """Adapt a backbone without numbers; False if the method looks at numbers."""
    try:
        run.variant.adapt(backbone)
    except (NotImplementedError, RuntimeError) as error:  # what PyTorch raises there
        if "meta" not in str(error):
            raise
        backbone.requires_grad_(False)
        return False
    return True


def forecast(run: Run, load: Load) -> MemoryForecast:
    """The memory that a run needs at its peak with this load."""
    backbone, complete = outline(run)
    family = family_of(backbone.config)  # type: ignore[arg-type]
    trained = [p for p in backbone.parameters() if p.requires_grad]
    held = sum(map(size, {*backbone.parameters(), *backbone.buffers()}))
    training = MOMENTS * FLOAT * sum(p.numel() for p in trained)
    file = file_bytes(run)
    # Float32 weights are the file's own pages; of what is made of them, both are there.
    table: Any = backbone.get_input_embeddings().weight  # type: ignore[operator]
    weights = held
    if run.train.precision != "fp32":
        weights += file
    elif family.transposed:
        weights += max(0, file - size(table))
    return MemoryForecast(
        process=resident() + (LATER if run.compute.pick_device().type == "cpu" else 0),
        weights=weights,
        training=training,
        activations=HOLES * load.tokens * token_bytes(run, family, backbone, load.longest),
        output=output_bytes(run, backbone),
        complete=complete,
    )


def file_bytes(run: Run) -> int:
    """The size of the files with the weights."""
    return sum(path.stat().st_size for path in weight_files(run.model.folder()))


def size(tensor: Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def token_bytes(run: Run, family: Family, backbone: nn.Module, longest: int) -> float:
    """Bytes that all blocks keep of one token, and those that one holds for a moment."""
    config: Any = backbone.config
    width, inner, blocks = config.hidden_size, inner_width(config), count_blocks(config)
    kept = kept_of(run, family, config)
    rounded = rounding(backbone, kept) if run.train.precision == "bf16" else 1.0
    block = kept.width * width + kept.inner * inner
    block += trained_values(backbone, width, inner) / blocks
    if drops_attention(config):
        block += kept.scores * config.num_attention_heads * longest / rounded
    passing = PASSING[0] * width + PASSING[1] * inner
    if run.compute.checkpointing:
        block, passing = width * min(1.0, rounded) / rounded, passing + block
    return FLOAT * rounded * (blocks * block + passing)


def rounding(backbone: nn.Module, kept: Kept) -> float:
    """The bytes of activations in bfloat16, as a share of those in float32.

    Of matrices that train, and so are float32, there are copies beside.
    """
    full = any(isinstance(module, nn.Linear) for _, module in trained_layers(backbone))
    return max(0.75, min(1.0, kept.rounded)) if full else kept.rounded


def kept_of(run: Run, family: Family, config: PreTrainedConfig) -> Kept:
    """The values that one block keeps of a token if nothing in it trains but small factors."""
    packed = run.compute.engine == "packed" and family.unsupported(config) is None
    if not packed:
        return family.kept_padded
    return replace(family.kept, inner=0.0) if run.compute.recompute_mlp else family.kept


def trained_values(backbone: nn.Module, width: int, inner: int) -> float:
    """Further values of a token that all blocks keep together, for what trains in them."""
    values = 0.0
    seen: set[tuple[str, int]] = set()
    for name, module in trained_layers(backbone):
        if isinstance(module, nn.LayerNorm) or not hasattr(module, "in_features"):
            values += width
            continue
        place = (name.rpartition(".")[0].rpartition(".")[0], module.in_features)
        if inner in (module.in_features, module.out_features) and place not in seen:
            seen.add(place)
            values += module.in_features
        if hasattr(module, "factors") and module.factors() is None:  # its output is rescaled
            values += module.out_features
    return values


def trained_layers(backbone: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers with tensors of their own that train, adapters as one."""
    adapters = dict(adapter_layers(backbone))
    yield from adapters.items()
    for name, module in backbone.named_modules():
        inside = any(name == own or name.startswith(f"{own}.") for own in adapters)
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if own and not inside and not isinstance(module, nn.Embedding):
            yield name, module


def drops_attention(config: PreTrainedConfig) -> bool:
    """Return whether attention drops out, for which a processor keeps every pair of tokens."""
    names = ("attention_probs_dropout_prob", "attn_pdrop", "attention_dropout", "dropout_rate")
    return any(getattr(config, name, 0.0) for name in names)


def inner_width(config: PreTrainedConfig) -> int:
    """The width of the feed-forward layers; four times the model's if the config has none."""
    names = ("intermediate_size", "n_inner", "d_ff", "hidden_dim", "ffn_dim")
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int)), 4 * config.hidden_size)


def count_blocks(config: PreTrainedConfig) -> int:
    """How many blocks there are, of both parts of an encoder-decoder."""
    decoder = getattr(config, "num_decoder_layers", None) if config.is_encoder_decoder else None
    return config.num_hidden_layers + (decoder or 0)


def output_bytes(run: Run, backbone: nn.Module) -> float:
    """Bytes that the loss over words takes; with a head there is none."""
    if run.task.num_outputs:
        return 0.0
    table: Any = backbone.get_input_embeddings().weight  # type: ignore[operator]
    words, width = table.shape
    logits = 2 * CHUNK * words * FLOAT
    return logits + (2 * words * width * FLOAT if table.requires_grad else 0)


def load_of(
    run: Run, data: Data, tokenizer: PreTrainedTokenizerBase, packed: bool, processes: int = 1
) -> Load:
    """The largest of some batches drawn from the first rows; several processes share a batch."""
    train = run.train
    rows = data.train.take(np.arange(min(SAMPLE, len(data.train))))
    lengths = run.task.encode(tokenizer, rows, train.max_length).lengths
    examples = -(-min(train.batch_size, len(data.train)) // (train.accumulate * processes))
    drawn = np.random.default_rng(0).choice(lengths, size=(BATCHES, examples))
    tokens = drawn.sum(axis=1) if packed else drawn.max(axis=1) * examples
    return Load(int(tokens.max()), int(lengths.max()))


def resident() -> float:
    """Bytes that this process holds, as far as the system says."""
    path = Path("/proc/self/statm")
    if not path.exists():
        return 0.0
    return int(path.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine_bytes(device: torch.device) -> float:
    """The memory of a GPU, or what this process may have of the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.exists() else "max"
    return min(found, int(text)) if text.isdigit() else found


def announce(run: Run, data: Data, device: torch.device, processes: int = 1) -> None:
    """Say before anything is loaded that a run needs much of the memory, or more than there is.

    Several processes are taken to have a GPU each, or to share this machine's memory.
    """
    available = machine_bytes(device) / (processes if device.type == "cpu" else 1)
    if bound(run) < MUCH * available:
        return
    config = run.model.config()
    packed = run.compute.engine == "packed" and family_of(config).unsupported(config) is None
    tokenizer = read_tokenizer(run.model.folder(), config.vocab_size)
    found = forecast(run, load_of(run, data, tokenizer, packed, processes))
    if device.type == "cuda":
        found = replace(found, process=0.0)
    if found.total >= MUCH * available:
        log.warning("%s%s", sentence(found, available, device), advice(run, found, available))


def bound(run: Run) -> float:
    """More bytes than a run can need, from its settings and the size of its files alone."""
    config: Any = run.model.config()
    train, kept = run.train, Kept(30.0, 10.0)
    tokens = -(-train.batch_size // train.accumulate) * train.max_length
    width, inner = config.hidden_size, inner_width(config)
    block = tokens * FLOAT * (kept.width * width + kept.inner * inner)
    words = 4 * FLOAT * config.vocab_size * (CHUNK + width)
    # Numbers of two bytes in the file may become ones of four here, with three more beside each.
    return resident() + 10 * file_bytes(run) + count_blocks(config) * block + words


def sentence(found: MemoryForecast, available: float, device: torch.device) -> str:
    """Say what a run needs and what there is."""
    place = "this GPU" if device.type == "cuda" else "this machine"
    least = "about" if found.complete else "at least"
    fits = "This run needs" if found.total <= available else "This run will hardly fit: it needs"
    parts = ", ".join(
        f"{name} {getattr(found, name) / GIB:.1f}"
        for name in ("weights", "training", "activations", "output")
    )
    return (
        f"{fits} {least} {found.total / GIB:.1f} GiB ({parts}), and {place} has "
        f"{available / GIB:.1f} GiB"
    )


def advice(run: Run, found: MemoryForecast, available: float) -> str:
    """Name the smallest change that makes it much less, if dividing the batch does."""
    train = run.train
    examples = -(-train.batch_size // train.accumulate)
    rest = found.total - found.activations
    for parts in (2, 4, 8, 16, 32, 64):
        need = rest + found.activations / parts
        if parts <= examples and need < MUCH * available:
            return f"; train.accumulate={train.accumulate * parts} would need {need / GIB:.1f}."
    if found.activations > rest and not run.compute.checkpointing:
        return "; compute.checkpointing=true keeps a small part of the activations."
    if train.precision == "fp32" and found.weights > found.training:
        return "; a smaller model, or a method on quantised weights, needs less."
    return "; a method that trains fewer parameters needs less."
