"""Inputs of layers on real tokens, and moments of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import AdapterLayer, evaluation_mode
from variants.forms import Embedding


class Masks:
    """Mark the positions of real tokens; `decodes` if the labels are a decoder's."""

    def __init__(self, inputs: Mapping[str, Any], decodes: bool) -> None:
        masks = [mask for key, mask in inputs.items() if key.endswith("attention_mask")]
        self.known = [mask.bool() for mask in masks if mask is not None and mask.dim() == 2]
        decoder, labels = inputs.get("decoder_input_ids"), inputs.get("labels")
        if "decoder_attention_mask" not in inputs:
            if decoder is not None:
                self.known.append(torch.ones_like(decoder, dtype=torch.bool))
            elif decodes and labels is not None and labels.dim() == 2:
                # The decoder sees each label one place later, and something else at first.
                self.known.append(F.pad(labels[:, :-1] != -100, (1, 0), value=True))

    def find(self, name: str, places: Tensor) -> Tensor | float:
        """The mask of these places, or 1 if they are no tokens of the batch.

        Raises ValueError if they could be an encoder's tokens as well as a decoder's.
        """
        found = [m for mask in self.known if (m := reshape_mask(mask, places.shape)) is not None]
        if any(not torch.equal(mask, found[0]) for mask in found):
            raise ValueError(
                f"{name} may see the encoder's tokens or the decoder's, which are as many: pad the "
                "two to different lengths, so that each is known by its mask."
            )
        return found[0] if found else 1.0


def reshape_mask(mask: Tensor, shape: torch.Size) -> Tensor | None:
    """A mask [B, T] for places [B, T], [B T] or [T, B]; None for any other shape."""
    if shape == mask.shape:
        return mask
    if shape == (mask.numel(),):
        return mask.flatten()
    return mask.T if shape == mask.T.shape else None


@torch.no_grad()
def visit_inputs(
    model: nn.Module,
    layers: Mapping[str, AdapterLayer],
    batches: Iterable[Any],
    see: Callable[[str, Tensor, Masks], None],
) -> None:
    """Call `see(name, x, masks)` with what comes into each layer, batch by batch, dropout off.

    A batch is a mapping of the model's inputs, or has one as `inputs`. Raises ValueError if
    there is no batch, and for a layer that nothing comes into.
    """
    decodes = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    masks = Masks({}, decodes)
    called: set[str] = set()

    def hook(name: str) -> Any:
        def visit(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            see(name, inputs[0], masks)
            called.add(name)

        return visit

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    empty = True
    try:
        with evaluation_mode(model):
            for batch in batches:
                empty = False
                inputs = batch if isinstance(batch, Mapping) else batch.inputs
                masks = Masks(inputs, decodes)
                model(**inputs)
    finally:
        for handle in hooks:
            handle.remove()
    if empty:
        raise ValueError("The probe saw no batch.")
    for name in sorted(layers.keys() - called):
        raise ValueError(
            f"{name} was not called while the method looked at data, as its weight is read or the "
            "data leaves it out; nothing is known of it, so leave it out of the targets."
        )


@dataclass
class Moments:
    """The sums over tokens of x [d] and of x x^T [d, d], in float64."""

    first: Tensor
    second: Tensor
    tokens: int = 0

    def add(self, x: Tensor) -> None:
        """Take in the inputs x [tokens, d]."""
        x = x.double()
        self.first += x.sum(dim=0)
        self.second += x.T @ x
        self.tokens += len(x)

    def covariance(self) -> Tensor:
        """The mean of (x - mean)(x - mean)^T."""
        mean = self.first / self.tokens
        return self.second / self.tokens - torch.outer(mean, mean)


def check_inputs(layer: AdapterLayer) -> None:
    """Raise ValueError for a layer whose inputs are no vectors that have moments."""
    if layer.form is Embedding:
        raise ValueError("Its inputs are single tokens, which have no moments to start from.")


def input_moments(
    model: nn.Module, layers: Mapping[str, AdapterLayer], batches: Iterable[Any]
) -> dict[str, Moments]:
    """The moments of each layer's input by name; layers that share an input share one object.

    Padding is left out where a layer sees tokens; of a convolution every patch counts. Which
    layers share an input is seen in the first batch. Raises ValueError if there is no batch.
    """
    found: dict[str, Moments] = {}
    owners: dict[str, str] = {}
    inputs: dict[str, Tensor] = {}  # of the first batch

    def see(name: str, x: Tensor, masks: Masks) -> None:
        x = real_inputs(name, layers[name], x, masks)
        if name not in owners:
            same = (n for n, seen in inputs.items() if seen.shape == x.shape and seen.equal(x))
            owners[name] = next(same, name)
            inputs[name] = x
            if owners[name] == name:
                zeros = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
                found[name] = Moments(zeros[0].clone(), zeros)
        if owners[name] == name:
            found[name].add(x)

    visit_inputs(model, layers, batches, see)
    return {name: found[owner] for name, owner in owners.items()}


def real_inputs(name: str, layer: AdapterLayer, x: Tensor, masks: Masks) -> Tensor:
    """Return the tensor that W0 multiplies, [places, d_in], without padding."""
    x = layer.form.inputs(layer.base, x)
    mask = masks.find(name, x[..., 0])
    return x[mask] if isinstance(mask, Tensor) else x.flatten(0, -2)
