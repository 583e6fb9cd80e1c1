"""The training loop: one for every method, resumable at any step."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from experiments.backbones.layers import PRECISIONS
from experiments.data.batches import Batch, Batches
from experiments.machine.distributed import local_device
from experiments.machine.processor import batch_multiple
from experiments.models.engine import NAMES, Engine
from experiments.models.model import Model
from experiments.training.optimizer import FlatAdamW
from variants.base import Progress, Variant, decay_groups

# Factor on the learning rate after a share of the steps behind the warm-up.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}


SUBSETS = ("fixed", "per_seed")


@dataclass(frozen=True, kw_only=True)
class Train:
    """How a run trains; a step is an optimiser step."""

    epochs: float  # length of the run
    batch_size: int  # examples per step
    accumulate: int  # parts a batch is computed in; changes memory, not the gradient
    examples: int | None  # a random subset of the train split; null: all of it
    subset: str  # fixed: the same subset in every run; per_seed: drawn by the run's seed
    max_length: int  # tokens; longer texts are cut and counted
    head_lr: float  # the task head's rate, the same for every method
    weight_decay: float  # on matrices; never on norms and biases
    schedule: str
    warmup: float  # fraction of all steps
    clip: float | None  # largest gradient norm, of what lets itself be clipped
    precision: str  # fp32, or bf16: frozen matrices in bfloat16, what trains in float32
    engine: str  # packed: our own passes, without padding; transformers: its own, padded
    lean: bool  # packed: compute the feed-forward's inner activations again in the backward pass
    checkpointing: bool  # compute all activations of a block again in the backward pass
    prefix_cache: bool  # packed: states below the lowest trained block computed once, undropped
    device: str  # auto, cpu, cuda, cuda:1 ...
    eval_batch_size: int
    snapshots: int  # adapter states kept, evenly spaced, the last one at the end
    explode: float  # stop when the loss is this many times what it was at first
    log_every: int  # steps
    checkpoint_every: float  # seconds

    def __post_init__(self) -> None:
        positive = (
            "epochs",
            "batch_size",
            "accumulate",
            "max_length",
            "eval_batch_size",
            "log_every",
        )
        for name in (*positive, "explode"):
            if getattr(self, name) <= 0:
                raise ValueError(f"train.{name} must be positive, got {getattr(self, name)}.")
        for name in ("head_lr", "weight_decay", "snapshots", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name} must not be negative, got {getattr(self, name)}.")
        for name in ("examples", "clip"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(
                    f"train.{name} must be positive or null, got {getattr(self, name)}."
                )
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"train.warmup is a fraction of all steps, got {self.warmup}.")
        for name in ("lean", "prefix_cache"):
            if getattr(self, name) and self.engine != "packed":
                raise ValueError(f"train.{name} needs train.engine=packed, got '{self.engine}'.")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(
                f"train.device must be auto, cpu, cuda or cuda:NUMBER, got '{self.device}'."
            )
        choices = {
            "subset": SUBSETS, "precision": PRECISIONS, "schedule": SCHEDULES, "engine": NAMES,
        }  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"train.{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'."
                )

    def pick_device(self) -> torch.device:
        """The device asked for, of several GPUs this process's; `auto` is a GPU if there is one."""
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        device = local_device(torch.device(auto if self.device == "auto" else self.device))
        found = torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= found:
            raise ValueError(
                f"train.device is '{device}', and this machine has {found or 'no'} CUDA "
                f"device{'' if found == 1 else 's'}."
            )
        return device

    def forward_passes(self) -> Engine:
        """How the backbone is run."""
        multiple = batch_multiple(self.pick_device(), self.precision)
        return Engine(self.engine, self.lean, self.checkpointing, multiple)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimiser steps of the whole run, at least one."""
        return max(1, round(self.epochs * steps_per_epoch))


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    train: Train
    lr: float  # of the method's parameters
    total: int  # steps


def build_optimizer(model: Model, variant: Variant, plan: Plan) -> FlatAdamW:
    """AdamW over the method's groups and the head's: everything that trains."""
    train = plan.train
    groups = variant.param_groups(model.backbone, plan.lr, train.weight_decay)
    groups += decay_groups(model.head, train.head_lr, train.weight_decay)
    return FlatAdamW(groups)


def build_schedule(optimizer: torch.optim.Optimizer, plan: Plan) -> LambdaLR:
    """The learning rates of every step: warm-up, then the named schedule."""
    factor = SCHEDULES[plan.train.schedule]
    warmup = round(plan.train.warmup * plan.total)

    def at(step: int) -> float:
        if step < warmup:
            return step / warmup
        return factor((step - warmup) / max(1, plan.total - warmup))

    return LambdaLR(optimizer, at)


@dataclass(frozen=True)
class State:
    """Everything that moves while a run trains."""

    model: Model
    variant: Variant
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR


class TrainingListener:
    """A listener to the events of training; this one ignores them all."""

    def resume(self, state: State) -> int:
        """Take up a run that was stopped; returns the number of steps that are done."""
        return 0

    def begin(self, state: State, total: int) -> None:
        """The run starts, or goes on."""

    def before(self, step: int) -> None:
        """A step starts."""

    def seen(self, batch: Batch, outputs: Tensor) -> None:
        """A part of a batch went through the model."""

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """A step is complete: its mean loss, and the norm of its gradient before clipping."""


class Stepper:
    """One optimiser step after the other, each by its number."""

    def __init__(self, model: Model, variant: Variant, batches: Batches, plan: Plan) -> None:
        self.model, self.variant, self.batches, self.plan = model, variant, batches, plan
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(model, variant, plan)
        groups = self.optimizer.param_groups
        self.trained = [p for group in groups for p in group["params"]]
        # A rule that rewrites gradients may have none to clip: `clip` of its groups is False.
        self.clipped = [p for group in groups if group.get("clip", True) for p in group["params"]]
        self.schedule = build_schedule(self.optimizer, plan)
        model.train()

    @property
    def state(self) -> State:
        return State(self.model, self.variant, self.optimizer, self.schedule)

    def step(self, number: int, listener: TrainingListener) -> tuple[Tensor, Tensor]:
        """Its mean loss, and the norm of its gradient before clipping."""
        loss = self.backward(number, listener)
        progress = Progress(number, self.plan.total)
        self.variant.after_backward(self.model.backbone, progress)
        self.optimizer.gather()
        norm = nn.utils.clip_grad_norm_(self.clipped, self.plan.train.clip or math.inf)
        self.optimizer.step()
        self.schedule.step()
        self.variant.after_step(self.model.backbone, progress)
        self.optimizer.zero_grad()
        return loss, norm

    def backward(self, number: int, listener: TrainingListener) -> Tensor:
        """Give every trained parameter its gradient; returns the mean loss."""
        data, world = self.batches.data, self.batches.world
        shares = self.batches.split_by_process(number)
        parts = [rows for share in shares for rows in share]
        labels_in_step = sum(data.num_labels(rows) for rows in parts)
        # The last batch of an epoch may leave nothing for some processes.
        losses = [] if shares[world.rank] else [self.trained[0].new_zeros(())]
        for part in map(data.batch, shares[world.rank]):
            loss_sum, outputs = self.model.loss(part.to(self.device))
            penalty = self.variant.penalty(self.model.backbone)
            part_loss = loss_sum / labels_in_step + penalty / len(parts)
            part_loss.backward()
            losses.append(part_loss.detach())
            listener.seen(part, outputs.detach())
        loss = torch.stack(losses).sum()
        if world.size > 1:
            world.add([loss, *self.optimizer.gradients()])
        return loss


def fit(
    model: Model, variant: Variant, batches: Batches, plan: Plan, listener: TrainingListener
) -> None:
    """Train for `plan.total` steps, or for the rest of them if some are done already."""
    stepper = Stepper(model, variant, batches, plan)
    start = listener.resume(stepper.state)
    listener.begin(stepper.state, plan.total)
    for number in range(start + 1, plan.total + 1):
        listener.before(number)
        loss, norm = stepper.step(number, listener)
        listener.after(number, loss, norm)
