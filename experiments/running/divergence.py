"""End a run whose loss goes wrong."""

import math
from dataclasses import dataclass

from torch import Tensor

from experiments.results.result import Diverged
from experiments.running.history import History
from experiments.training.loop import TrainingListener


@dataclass
class Divergence(TrainingListener):
    """Raises Diverged at a record whose loss is no number, or too large."""

    history: History
    ratio: float  # how many times the first loss is too large

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        if self.history.is_due(step):
            self.check(self.history.records[0], self.history.records[-1])

    def check(self, first: dict[str, float], last: dict[str, float]) -> None:
        """Raise Diverged if training has gone wrong between two records."""
        loss, norm, step = last["loss"], last["gradient_norm"], last["step"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"The loss is {loss} and the gradient's norm {norm} at step {step}.")
        if loss > self.ratio * first["loss"]:
            raise Diverged(
                f"The loss is {loss:.4g} at step {step}, over {self.ratio:g} times the "
                f"{first['loss']:.4g} it began with (train.divergence_ratio)."
            )
