"""The cost of a run while it goes: of its phases, and of every step of its training."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from experiments.running.checkpoints import Groups, Resumable
from experiments.training.measure import Clock, Cost, measure, peak


@dataclass
class Meter(Resumable):
    """Measures a run; one that is taken up again has its earlier costs behind it."""

    device: torch.device
    phases: dict[str, Cost] = field(
        default_factory=lambda: {phase: Cost() for phase in ("prepare", "train", "evaluate")}
    )
    scoring: Cost = field(default_factory=Cost)  # of the epochs, and of held-out rows on the way
    earlier_peak: float = 0.0  # MiB, of the training before this process

    def __post_init__(self) -> None:
        self.clock = Clock(self.device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what happens in the block as a phase of the run."""
        with measure(self.device, self.phases[name]):
            yield

    def before(self, step: int) -> None:
        self.clock.start()

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        self.clock.stop()

    def so_far(self) -> tuple[float, float]:
        """Seconds of the training, and of all phases, by now: the GPU's, or the processor's."""
        prepare, scoring, clock = self.phases["prepare"], self.scoring, self.clock
        if self.device.type == "cuda":
            training = sum(clock.seconds())
            return training, training + prepare.seconds + scoring.seconds
        training = clock.processor_seconds
        return training, training + prepare.processor_seconds + scoring.processor_seconds

    def stored(self) -> dict[str, Any]:
        return {
            "prepare": vars(self.phases["prepare"]),
            "processor_seconds": self.clock.processor_seconds,
            "tokens": [self.clock.tokens, self.clock.padded],
            "scoring": vars(self.scoring),
            "peak": max(self.earlier_peak, peak(self.device, self.phases["train"]) or 0.0),
        }

    def tensors(self) -> Groups:
        return {"clock": {"steps": torch.tensor(self.clock.seconds(), dtype=torch.float64)}}

    def restore(self, about: dict[str, Any], groups: Groups) -> None:
        self.phases["prepare"] = Cost(**about["prepare"])
        vars(self.scoring).update(about["scoring"])
        self.earlier_peak = about["peak"]
        self.clock.steps = groups["clock"]["steps"].tolist()
        self.clock.tokens, self.clock.padded = about["tokens"]
        self.clock.processor_seconds = about["processor_seconds"]
