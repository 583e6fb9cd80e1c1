"""Checkpoints of a run: written while it trains, and where it goes on if it was stopped."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.disk.files import flatten
from experiments.results.code import hash_shared_code
from experiments.running.job import PreparedRun
from experiments.stored import checkpoint
from experiments.training.loop import State, TrainingListener
from variants.base import adapter_layers, copy_exactly

Groups = dict[str, dict[str, Tensor]]  # tensors by group and name


class Resumable(TrainingListener):
    """A listener with a state of its own, which a checkpoint keeps."""

    def stored(self) -> dict[str, Any]:
        """The state as plain data, under the names that a checkpoint has for it."""
        return {}

    def tensors(self) -> Groups:
        """The tensors of the state."""
        return {}

    def restore(self, about: dict[str, Any], groups: Groups) -> None:
        """Take the state from a checkpoint's data and tensors."""

    def tidy(self) -> None:
        """Delete files that only an earlier checkpoint needed."""


@dataclass
class Checkpoints(TrainingListener):
    """Saves a run at some of its records, together with the state of other listeners.

    A run is saved at records alone, so that no half-filled mean has to be kept.
    """

    job: PreparedRun
    folder: Path
    key: dict[str, Any]  # the run's fingerprint: a checkpoint must agree with it to be continued
    parts: Sequence[Resumable]
    restarts: int = 0
    earlier_codes: list[str] = field(default_factory=list)  # hashes of the code that began the run

    def __post_init__(self) -> None:
        self.world = self.job.batches.world

    @property
    def path(self) -> Path:
        """The file of the latest checkpoint."""
        return self.folder / "checkpoint.safetensors"

    @property
    def products(self) -> str:
        """How matrices of float32 are multiplied: a run that goes on rounds as it has so far."""
        return self.content[0]["products"] if self.path.exists() else self.job.products

    @cached_property
    def content(self) -> tuple[dict[str, Any], Groups]:
        """The metadata and the tensors of the checkpoint that the run goes on from."""
        return self.read()

    def begin(self, state: State, total: int) -> None:
        self.state, self.total = state, total
        self.saved_at = time.monotonic()

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        record = self.job.run.record
        if step == self.total or (
            step % record.log_every == 0
            and self.world.share(time.monotonic() - self.saved_at >= record.checkpoint_every)
        ):
            self.save(step)

    def save(self, step: int) -> None:
        """Write a checkpoint atomically."""
        random = self.world.gather(random_states())
        self.saved_at = time.monotonic()
        if not self.world.first:
            return
        groups = self.moving() | {f"random{i}": s for i, s in enumerate(random)}
        about = {
            "step": step,
            "key": self.key,
            "processes": self.world.size,
            "restarts": self.restarts,
            "schedule": self.state.schedule.last_epoch,
            "codes": list(dict.fromkeys([*self.earlier_codes, hash_shared_code()])),
            "products": torch.get_float32_matmul_precision(),
        }
        for part in self.parts:
            groups |= part.tensors()
            about |= part.stored()
        checkpoint.write(self.path, flatten(groups), about)
        for part in self.parts:
            part.tidy()

    def moving(self) -> Groups:
        """Every tensor that training changes in all processes alike, by group."""
        state = self.state
        adam = state.optimizer.state_dict()["state"]
        return {
            "learned": state.variant.learned_state(state.model.backbone),
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
        groups, model = self.content[1], self.job.loaded.model
        self.job.run.variant.load_state(model.backbone, groups.get("learned", {}))
        copy_exactly(adapter_buffers(model.backbone), groups.get("buffer", {}))
        copy_exactly(dict(model.head.state_dict()), groups.get("head", {}))

    def read(self) -> tuple[dict[str, Any], Groups]:
        """Return the checkpoint's metadata, and its tensors by group."""
        about, groups = checkpoint.read(self.path)
        if about["key"] != self.key:
            raise ValueError(
                f"{self.path} is of the unfinished run of another configuration or other data; "
                "delete it, or choose another folder."
            )
        if about["processes"] != self.world.size:
            raise ValueError(
                f"{self.folder} holds the unfinished run of {about['processes']} processes, and "
                f"now there are {self.world.size}; start as many, or delete it to start over."
            )
        return about, groups

    def resume(self, state: State) -> int:
        """Go on from the checkpoint, if there is one: everything beside the model as it was."""
        if not self.path.exists():
            return 0
        about, groups = self.content
        check_moments(self.path, state.optimizer, groups.get("optimizer", {}))
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
        self.earlier_codes = about["codes"]
        self.restarts = about["restarts"] + 1
        for part in self.parts:
            part.restore(about, groups)
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
