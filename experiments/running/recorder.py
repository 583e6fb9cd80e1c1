"""Record a training run while it goes: history, checkpoints, snapshots, progress."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.data.batches import Batch
from experiments.disk.files import append_line, flatten, write_lines, write_tensors
from experiments.disk.folders import SNAPSHOTS
from experiments.results.code import shared_hash
from experiments.running.epochs import Epochs, ends
from experiments.running.job import PreparedRun
from experiments.stored import checkpoint
from experiments.training.loop import State, TrainingListener
from experiments.training.measure import Clock, Cost, peak
from variants.base import adapter_layers, copy_exactly


class Diverged(ArithmeticError):  # noqa: N818 (a verdict on a run, not a fault)
    """The loss is not a number any more, or many times what it was at first."""


@dataclass(frozen=True)
class Seen:
    """A part of a batch that went through the model since the last record."""

    tokens: int
    places: int  # padding included
    labels: Tensor | None
    outputs: Tensor


@dataclass
class Recorder(TrainingListener):
    """Listens to a run in its folder, and takes it up again where its last checkpoint left it."""

    job: PreparedRun
    folder: Path
    key: dict[str, Any]  # the run's fingerprint: a checkpoint must agree with it to be continued
    listeners: list[Callable[[dict[str, float]], None]]  # told of every logged record
    history: list[dict[str, float]] = field(default_factory=list)
    restarts: int = 0

    def __post_init__(self) -> None:
        self.train = self.job.run.train
        self.world = self.job.batches.world
        self.clock = Clock(self.job.device)
        self.costs = {phase: Cost() for phase in ("prepare", "train", "evaluate")}
        self.scoring = Cost()  # of the epochs
        self.peak = 0.0  # MiB, of the training before this process
        self.earlier_codes: list[str] = []  # of the processes that trained before this one
        best_epoch = self.job.run.protocol.best_epoch and self.world.first
        self.epochs = Epochs(self.job, self.folder) if best_epoch else None

    def begin(self, state: State, total: int) -> int:
        self.state, self.total = state, total
        self.saved_at = time.monotonic()
        self.snapshots = snapshot_steps(self.train.snapshots, total)
        self.clear_window()
        start = self.restore() if self.checkpoint.exists() else 0
        if self.world.first:
            write_lines(self.folder / "history.jsonl", self.history)
        return start

    def before(self, step: int) -> None:
        self.clock.start()

    def seen(self, batch: Batch, outputs: Tensor) -> None:
        self.window.append(
            Seen(
                batch.tokens, self.state.model.engine.count_positions(batch), batch.labels, outputs
            )
        )

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        self.clock.stop()
        self.losses.append(loss)
        if self.job.run.protocol.best_epoch and ends(self.job, step):
            self.score(step)
        # Before the checkpoint, behind which a run that is taken up again begins.
        if step in self.snapshots and self.world.first:
            write_tensors(self.folder / SNAPSHOTS / f"step-{step:07d}.safetensors", self.learned())
        if step % self.train.log_every == 0 or step == self.total:
            self.log(step, float(norm))
            # Only here, where no half-filled window would have to be kept.
            if step == self.total or self.world.share(
                time.monotonic() - self.saved_at >= self.train.checkpoint_every
            ):
                self.save(step)

    def score(self, step: int) -> None:
        """Score the state after an epoch; raises Diverged for one that is broken."""
        started, busy = time.perf_counter(), time.process_time()
        failure = self.epochs.score(step) if self.epochs is not None else None
        self.scoring.seconds += time.perf_counter() - started
        self.scoring.processor_seconds += time.process_time() - busy
        if failure := self.world.share(failure):
            raise Diverged(failure)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def learned(self) -> dict[str, Tensor]:
        return self.state.variant.learned_state(self.state.model.backbone)

    def clear_window(self) -> None:
        self.losses: list[Tensor] = []
        self.window: list[Seen] = []

    def log(self, step: int, norm: float) -> None:
        """Write the means since the last record; raises Diverged if training has gone wrong."""
        if self.world.size > 1:
            self.meet()
        for part in self.window:
            self.clock.count(part.tokens, part.places)
        loss = float(torch.stack(self.losses).mean())
        first = self.history[0]["loss"] if self.history else loss
        record = {"step": step, "loss": loss, "gradient_norm": norm}
        if math.isfinite(loss) and math.isfinite(norm):
            record |= self.details()
        self.history.append(record)
        if self.world.first:
            append_line(self.folder / "history.jsonl", record)
        self.clear_window()
        for listener in self.listeners:
            listener(record)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"The loss is {loss} and the gradient's norm {norm} at step {step}.")
        if loss > self.train.explode * first:
            raise Diverged(
                f"The loss is {loss:.4g} at step {step}, over {self.train.explode:g} times the "
                f"{first:.4g} it began with (train.explode)."
            )

    def meet(self) -> None:
        """Put what all processes have seen in the place of the own share."""
        trained = [p for group in self.state.optimizer.param_groups for p in group["params"]]
        check = repr([float(p.detach().double().sum()) for p in trained])
        own = [replace(part, outputs=part.outputs.cpu()) for part in self.window]
        windows, checks = zip(*self.world.gather((own, check)), strict=True)
        assert len(set(checks)) == 1, "The models of the processes have drifted apart."
        self.window = [part for window in windows for part in window]

    def details(self) -> dict[str, float]:
        """Learning rate, metric on the batches since the last record, telemetry of the method."""
        task = self.job.run.task
        telemetry = self.state.variant.telemetry(self.state.model.backbone)
        return {
            f"train_{task.training_metric}": task.training_score(
                [part.labels for part in self.window], [part.outputs for part in self.window]
            ),
            "lr": float(self.state.schedule.get_last_lr()[0]),
            **telemetry,
        }

    def save(self, step: int) -> None:
        """Write all that continuing from this step needs, in one file, in one move."""
        random = self.world.gather(random_states())
        self.saved_at = time.monotonic()
        if not self.world.first:
            return
        tensors = flatten(self.moving() | {f"random{i}": s for i, s in enumerate(random)}) | {
            "clock.steps": torch.tensor(self.clock.seconds(), dtype=torch.float64)
        }
        about = {
            "step": step,
            "key": self.key,
            "processes": self.world.size,
            "prepare": vars(self.costs["prepare"]),
            "restarts": self.restarts,
            "history": self.history,
            "schedule": self.state.schedule.last_epoch,
            "processor_seconds": self.clock.processor_seconds,
            "tokens": [self.clock.tokens, self.clock.padded],
            "epochs": self.epochs.scores if self.epochs is not None else [],
            "scoring": vars(self.scoring),
            "peak": max(self.peak, peak(self.job.device, self.costs["train"]) or 0.0),
            "codes": list(dict.fromkeys([*self.earlier_codes, shared_hash()])),
            "products": torch.get_float32_matmul_precision(),
        }
        checkpoint.write(self.checkpoint, tensors, about)
        if self.epochs is not None:
            self.epochs.tidy()

    def moving(self) -> dict[str, dict[str, Tensor]]:
        """Every tensor that training changes in all processes alike, by group."""
        state = self.state
        adam = state.optimizer.state_dict()["state"]
        return {
            "learned": self.learned(),
            "buffer": adapter_buffers(state.model.backbone),
            "head": dict(state.model.head.state_dict()),
            "optimizer": {
                f"{i}.{key}": torch.as_tensor(value)
                for i, entry in adam.items()
                for key, value in entry.items()
            },
        }

    def restore_model(self) -> None:
        """Put back the model as it was: the method's structure, on which the optimizer is built."""
        self.about, self.groups = self.read_checkpoint()
        # Another way of multiplying would round otherwise than the run has so far.
        torch.set_float32_matmul_precision(self.about["products"])
        model = self.job.loaded.model
        self.job.run.variant.load_state(model.backbone, self.groups.get("learned", {}))
        copy_exactly(adapter_buffers(model.backbone), self.groups.get("buffer", {}))
        copy_exactly(dict(model.head.state_dict()), self.groups.get("head", {}))

    def read_checkpoint(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Return the checkpoint's metadata, and its tensors by group."""
        about, groups = checkpoint.read(self.checkpoint)
        if about["key"] != self.key:
            raise ValueError(
                f"{self.folder} holds the unfinished run of another configuration or other data; "
                "delete it, or choose another folder."
            )
        if about["processes"] != self.world.size:
            raise ValueError(
                f"{self.folder} holds the unfinished run of {about['processes']} processes, and "
                f"now there are {self.world.size}; start as many, or delete it to start over."
            )
        return about, groups

    def restore(self) -> int:
        """Continue from the checkpoint: everything beside the model as it was after its step."""
        state, about, groups = self.state, self.about, self.groups
        check_moments(self.checkpoint, state.optimizer, groups.get("optimizer", {}))
        state.optimizer.load_state_dict(
            {
                "state": optimizer_entries(groups.get("optimizer", {})),
                "param_groups": state.optimizer.state_dict()["param_groups"],
            }
        )
        # One step short of where it was, then a step: that sets the learning rates too.
        behind = {"last_epoch": about["schedule"] - 1, "_step_count": about["schedule"] + 1}
        state.schedule.load_state_dict(state.schedule.state_dict() | behind)
        state.schedule.step()
        random = groups[f"random{self.world.rank}"]
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
        self.history[:] = about["history"]
        if self.epochs is not None:
            self.epochs.scores[:] = about["epochs"]
        self.costs["prepare"] = Cost(**about["prepare"])
        self.scoring, self.peak = Cost(**about["scoring"]), about["peak"]
        self.earlier_codes = about["codes"]
        self.restarts = about["restarts"] + 1
        self.clock.steps = groups["clock"]["steps"].tolist()
        self.clock.tokens, self.clock.padded = about["tokens"]
        self.clock.processor_seconds = about["processor_seconds"]
        return about["step"]


def random_states() -> dict[str, Tensor]:
    """Where the generators that dropout draws from stand."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def check_moments(path: Path, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless the stored moments fit the parameters of this optimizer."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entry in optimizer_entries(tensors).items():
        for key, tensor in entry.items():
            fits = index < len(parameters) and tensor.shape == parameters[index].shape
            if key != "step" and not fits:
                raise ValueError(
                    f"{path} cannot be continued (its optimizer.{index}.{key} fits no parameter); "
                    f"{checkpoint.START_OVER}."
                )


def optimizer_entries(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The per-parameter entries of an optimizer's state from their flat names."""
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        entries.setdefault(int(index), {})[key] = tensor
    return entries


def adapter_buffers(backbone: torch.nn.Module) -> dict[str, Tensor]:
    """The bookkeeping of the method: buffers of adapter layers, those of their bases left out."""
    return {
        f"{name}.{key}": buffer
        for name, layer in adapter_layers(backbone)
        for key, buffer in layer.named_buffers()
        if not key.startswith("base.")
    }


def snapshot_steps(count: int, total: int) -> set[int]:
    """`count` steps evenly spaced over the run, the last one its end."""
    return {round(total * k / count) for k in range(1, count + 1)} if count else set()
