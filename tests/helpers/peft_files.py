"""Adapters of PEFT, and the outputs of its models."""

from pathlib import Path

import peft
import torch
from conftest import Case
from transformers import AutoModelForSequenceClassification

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def of_peft(folder: Path, base: Path, pad: int | None = None) -> torch.nn.Module:
    """What PEFT makes of an adapter on a classifier of transformers."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    if pad is not None:
        model.config.pad_token_id = pad
    return peft.PeftModel.from_pretrained(model, folder).eval()


@torch.no_grad()
def outputs(model: torch.nn.Module, made: Case, family: str) -> torch.Tensor:
    if family == "gpt2":  # one by one, since it looks for the end by the padding
        rows = zip(*made.batch.inputs.values(), strict=True)
        cut = ([(t[: int(row[1].sum())])[None] for t in row] for row in rows)
        names = list(made.batch.inputs)
        return torch.cat([model(**dict(zip(names, row, strict=True))).logits for row in cut])
    return model(**made.batch.inputs).logits


def nudge(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
