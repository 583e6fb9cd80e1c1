"""The training loop: one for every method, resumable at any step."""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from experiments.data.batches import Batch, Batches
from experiments.models.model import Model
from experiments.settings.train import SCHEDULES, Train
from experiments.training.optimizer import FlatAdamW
from variants.base import Progress, Variant, decay_groups


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train."""

    train: Train
    lr: float  # of the method's parameters
    total: int  # steps


def build_optimizer(model: Model, variant: Variant, plan: TrainingPlan) -> FlatAdamW:
    """AdamW over the method's groups and the head's: everything that trains."""
    train = plan.train
    groups = variant.param_groups(model.backbone, plan.lr, train.weight_decay)
    groups += decay_groups(model.head, train.head_lr, train.weight_decay)
    return FlatAdamW(groups)


def build_schedule(optimizer: torch.optim.Optimizer, plan: TrainingPlan) -> LambdaLR:
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

    def __init__(
        self, model: Model, variant: Variant, batches: Batches, plan: TrainingPlan
    ) -> None:
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
    model: Model, variant: Variant, batches: Batches, plan: TrainingPlan, listener: TrainingListener
) -> None:
    """Train for `plan.total` steps, or for the rest of them if some are done already."""
    stepper = Stepper(model, variant, batches, plan)
    start = listener.resume(stepper.state)
    listener.begin(stepper.state, plan.total)
    for number in range(start + 1, plan.total + 1):
        listener.before(number)
        loss, norm = stepper.step(number, listener)
        listener.after(number, loss, norm)
