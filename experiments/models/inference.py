"""The outputs of a trained model on the examples of a split."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from experiments.data.splits import Split

if TYPE_CHECKING:  # tasks are settings too, which do not wait for torch
    from experiments.data.batches import Encoded
    from experiments.models.model import Model


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of one split, beside its examples: outputs [n, ...], or texts [n]."""

    split: Split
    outputs: np.ndarray
    truncated: int  # examples that were longer than the model was given
    losses: Mapping[str, float] = field(default_factory=dict)  # scores that follow from no outputs


def outputs(model: "Model", data: "Encoded", batch_size: int) -> np.ndarray:
    """The model's outputs [n, num_outputs] in the order of the examples."""
    import torch

    model.eval()
    device = next(model.parameters()).device
    # Examples of like length together: less padding, the same outputs.
    order = np.argsort(-data.lengths, kind="stable")
    parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    with torch.no_grad():
        found = [model(data.batch(rows).to(device)).cpu() for rows in parts]
    result = torch.empty_like(torch.cat(found))
    result[torch.from_numpy(order)] = torch.cat(found)
    return result.numpy()
