"""The settings of a run's loop: how it trains, how that is computed, what is kept of it.

Nothing here imports torch, so that a wrong value is told at once.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from experiments.models.engine import Engine

# Factor on the learning rate after a share of the steps behind the warm-up.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}
SUBSETS = ("fixed", "per_seed")
PRECISIONS = ("fp32", "bf16")
ENGINES = ("packed", "transformers")


@dataclass(frozen=True, kw_only=True)
class Train:
    """How a run trains; a step is an optimizer step."""

    epochs: float  # length of the run
    batch_size: int  # examples per step
    accumulate: int  # parts a batch is computed in; changes memory, not the gradient
    examples: int | None  # a random subset of the train split; null: all of it
    subset: str  # fixed: the same subset in every run; per_seed: drawn by the run's seed
    max_length: int  # tokens; longer texts are cut and counted
    head_lr: float  # the task head's rate, the same for every method
    weight_decay: float  # on matrices; never on norms and biases
    schedule: str  # of the learning rates behind the warm-up: linear, cosine or constant
    warmup: float  # fraction of all steps
    clip: float | None  # largest gradient norm, of what lets itself be clipped
    precision: str  # fp32, or bf16: frozen matrices in bfloat16, what trains in float32
    prefix_cache: bool  # packed: states below the lowest trained block computed once, undropped
    divergence_ratio: float  # stop when the loss is this many times what it was at first
    held_out: int | None = None  # rows kept out of training and measured ten times on the way

    def __post_init__(self) -> None:
        positive = ("epochs", "batch_size", "accumulate", "max_length", "divergence_ratio")
        check_positive("train", self, positive)
        check_not_negative("train", self, ("head_lr", "weight_decay"))
        for name in ("examples", "clip", "held_out"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(
                    f"train.{name} must be positive or null, got {getattr(self, name)}."
                )
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"train.warmup is a fraction of all steps, got {self.warmup}.")
        check_choice("train.subset", self.subset, SUBSETS)
        check_choice("train.precision", self.precision, PRECISIONS)
        check_choice("train.schedule", self.schedule, SCHEDULES)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run, at least one."""
        return max(1, round(self.epochs * steps_per_epoch))


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How and where a run is computed."""

    engine: str  # packed: our own passes, without padding; transformers: its own, padded
    recompute_mlp: bool  # packed: compute the MLP's inner activations again in the backward pass
    checkpointing: bool  # compute all activations of a block again in the backward pass
    device: str  # auto, cpu, cuda, cuda:1 ...
    eval_batch_size: int  # examples at once, where nothing trains

    def __post_init__(self) -> None:
        check_positive("compute", self, ("eval_batch_size",))
        check_choice("compute.engine", self.engine, ENGINES)
        if self.recompute_mlp and self.engine != "packed":
            raise ValueError(
                f"compute.recompute_mlp needs compute.engine=packed, got '{self.engine}'."
            )
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(
                f"compute.device must be auto, cpu, cuda or cuda:NUMBER, got '{self.device}'."
            )

    def pick_device(self) -> "torch.device":
        """The device asked for, of several GPUs this process's; `auto` is a GPU if there is one."""
        import torch

        from experiments.machine.distributed import local_device

        auto = "cuda" if torch.cuda.is_available() else "cpu"
        device = local_device(torch.device(auto if self.device == "auto" else self.device))
        found = torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= found:
            raise ValueError(
                f"compute.device is '{device}', and this machine has {found or 'no'} CUDA "
                f"device{'' if found == 1 else 's'}."
            )
        return device

    def forward_passes(self, precision: str) -> "Engine":
        """How the backbone is run."""
        from experiments.machine.processor import batch_multiple
        from experiments.models.engine import Engine

        multiple = batch_multiple(self.pick_device(), precision)
        return Engine(self.engine, self.recompute_mlp, self.checkpointing, multiple)


@dataclass(frozen=True, kw_only=True)
class Record:
    """The files that a run keeps besides its result, and how often it writes them."""

    log_every: int  # steps
    checkpoint_every: float  # seconds
    snapshots: int  # adapter states kept, evenly spaced, the last one at the end
    pause: float | None  # share of the steps after which it stops once; repeat it to continue

    def __post_init__(self) -> None:
        check_positive("record", self, ("log_every",))
        check_not_negative("record", self, ("checkpoint_every", "snapshots"))
        if self.pause is not None and not 0 < self.pause < 1:
            raise ValueError(f"record.pause must lie between 0 and 1, got {self.pause}.")


def check_positive(section: str, settings: Any, names: tuple[str, ...]) -> None:
    """Raise ValueError for a setting that is not above zero."""
    for name in names:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{section}.{name} must be positive, got {getattr(settings, name)}.")


def check_not_negative(section: str, settings: Any, names: tuple[str, ...]) -> None:
    """Raise ValueError for a setting below zero."""
    for name in names:
        if getattr(settings, name) < 0:
            raise ValueError(
                f"{section}.{name} must not be negative, got {getattr(settings, name)}."
            )


def check_choice(key: str, value: str, known: "tuple[str, ...] | Mapping[str, Any]") -> None:
    """Raise ValueError for a value that is none of those known."""
    if value not in known:
        raise ValueError(f"{key} must be one of {', '.join(known)}, got '{value}'.")
