"""How a backbone is run: over a stream of tokens by us, or padded by transformers."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from experiments.backbones.stream import Layout, lay_out
from experiments.data.batches import Batch
from experiments.families.base import family_of

log = logging.getLogger(__name__)


def keep(compute: Callable[..., Tensor], *args: Any) -> Tensor:
    """Compute, and keep everything that the backward pass needs."""
    return compute(*args)


def recompute(compute: Callable[..., Tensor], *args: Any) -> Tensor:
    """Compute, and compute once more in the backward pass."""
    return checkpoint(compute, *args, use_reentrant=False)


def trains(module: nn.Module) -> bool:
    """Return whether any parameter of it does."""
    return any(parameter.requires_grad for parameter in module.parameters())


@dataclass(frozen=True)
class Engine:
    """One way to the last hidden states of a batch's tokens."""

    name: str = "packed"
    recompute_mlp: bool = False  # the MLP's inner activations, in the backward pass
    checkpointing: bool = False  # recompute whole blocks
    multiple: int = 1  # packed: of this many tokens is every batch, so that few shapes are met

    def states(self, backbone: Any, batch: Batch, places: np.ndarray) -> Tensor:
        """The last hidden states [m, d] of the tokens at these places [m] of the stream, rising."""
        if self.name == "transformers":
            hidden = backbone(**batch.inputs).last_hidden_state
            hidden = hidden[batch.inputs["attention_mask"].bool()]
            return hidden[torch.from_numpy(places).to(batch.device)]
        return self.packed(backbone, batch, places)

    def packed(self, backbone: Any, batch: Batch, places: np.ndarray) -> Tensor:
        """The same by our own passes, which see no padding.

        The last block computes nothing for the other tokens, which only give keys and values.
        """
        family, batch = family_of(backbone.config), batch.filled(self.multiple)
        layout = lay_out(batch.lengths, batch.device, family.causal)
        reading = lay_out(batch.lengths, batch.device, family.causal, places)
        context = family.context(backbone, layout)
        x, first = self.initial_states(backbone, batch, layout)
        blocks = family.blocks(backbone)
        if first == len(blocks):
            return family.finish(backbone, reading.queries(x))
        x = self.through(backbone, blocks[first:-1], context, x, layout)
        return family.finish(backbone, self.through(backbone, blocks[-1:], context, x, reading))

    def below(self, backbone: Any, batch: Batch, blocks: int) -> Tensor:
        """The states [tokens, d] of all tokens behind this many of the first blocks."""
        family = family_of(backbone.config)
        layout = lay_out(batch.lengths, batch.device, family.causal)
        context = family.context(backbone, layout)
        x, first = self.initial_states(backbone, batch, layout)
        return self.through(backbone, family.blocks(backbone)[first:blocks], context, x, layout)

    def initial_states(self, backbone: Any, batch: Batch, layout: Layout) -> tuple[Tensor, int]:
        """States [tokens, d] that are known without a block or from a cache, before which block."""
        family = family_of(backbone.config)
        return batch.prefix or (family.embed(backbone, batch.columns, layout), 0)

    def through(
        self, backbone: Any, blocks: Any, context: Any, x: Tensor, layout: Layout
    ) -> Tensor:
        """Pass x [tokens, d] through these blocks; return the states of the layout's queries."""
        family = family_of(backbone.config)
        block = recompute if self.checkpointing and backbone.training else keep
        lean = self.recompute_mlp and backbone.training
        for layer in blocks:
            x = block(family.block, backbone, context, layer, x, layout, lean)
        return x

    def frozen_blocks(self, backbone: Any) -> int:
        """How many of the first blocks, and all below them, do not train."""
        family = family_of(backbone.config)
        if any(trains(module) for module in family.below(backbone)):
            return 0
        blocks = family.blocks(backbone)
        return next((i for i, layer in enumerate(blocks) if trains(layer)), len(blocks))

    def frozen_part(self, backbone: Any, blocks: int) -> list[nn.Module]:
        """The modules below a block, by number."""
        family = family_of(backbone.config)
        return [*family.below(backbone), *family.blocks(backbone)[:blocks]]

    def count_positions(self, batch: Batch) -> int:
        """The number of token positions that it computes, padding included."""
        if self.name == "packed":
            return batch.tokens + -batch.tokens % self.multiple
        return batch.inputs["input_ids"].numel()

    def prepare(self, backbone: Any) -> "Engine":
        """Set up a backbone; returns the engine that runs it.

        A model that the packed passes do not compute runs on transformers' own modules, which is
        said. Raises ValueError if that leaves out something that was asked for.
        """
        if self.name == "transformers":
            if self.checkpointing:
                # The re-entrant form gives no gradient to a block whose input needs none.
                backbone.gradient_checkpointing_enable({"use_reentrant": False})
            return self
        setting = family_of(backbone.config).unsupported(backbone.config)
        if setting is None:
            return self
        if self.recompute_mlp:
            raise ValueError(
                f"compute.recompute_mlp needs a packed pass, and there is none for {setting}."
            )
        log.info("There is no packed pass for %s: transformers' own modules run it.", setting)
        return replace(self, name="transformers").prepare(backbone)
