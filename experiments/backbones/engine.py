"""How a backbone is run: over a stream of tokens by us, or padded by transformers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from experiments.backbones import decoder, encoder
from experiments.backbones.kernels import ACTIVATIONS
from experiments.backbones.stream import lay_out
from experiments.batches import Batch

FAMILIES = {"bert": encoder, "roberta": encoder, "gpt2": decoder}
NAMES = ("packed", "transformers")


# The values of a config under which transformers computes something else than our passes do.
OTHERWISE = {
    "hidden_act": lambda value: value not in ACTIVATIONS,
    "activation_function": lambda value: value not in ACTIVATIONS,
    "is_decoder": bool,
    "add_cross_attention": bool,
    "scale_attn_by_inverse_layer_idx": bool,
    "scale_attn_weights": lambda value: not value,
}


def kept(compute: Callable[..., Tensor], *args: Any) -> Tensor:
    """What it computes, with all that its backward pass needs."""
    return compute(*args)


def again(compute: Callable[..., Tensor], *args: Any) -> Tensor:
    """What it computes, which the backward pass computes once more."""
    return checkpoint(compute, *args, use_reentrant=False)


def trains(module: nn.Module) -> bool:
    """Whether any parameter of it does."""
    return any(parameter.requires_grad for parameter in module.parameters())


@dataclass(frozen=True)
class Engine:
    """One way to the last hidden states of a batch's tokens."""

    name: str = "packed"
    lean: bool = False  # find the feed-forward's inner activations again in the backward pass
    checkpointing: bool = False  # find whole blocks again

    def states(self, backbone: Any, batch: Batch) -> Tensor:
        """The last hidden states [tokens, d] of the batch's tokens, one example after another."""
        if self.name == "transformers":
            hidden = backbone(**batch.inputs).last_hidden_state
            return hidden[batch.inputs["attention_mask"].bool()]
        return self.packed(backbone, batch)

    def packed(self, backbone: Any, batch: Batch) -> Tensor:
        """The same by our own passes, which see no padding."""
        return FAMILIES[backbone.config.model_type].last(backbone, self.through(backbone, batch))

    def through(self, backbone: Any, batch: Batch, end: int | None = None) -> Tensor:
        """The states [tokens, d] before block number `end`, or behind all blocks."""
        family = FAMILIES[backbone.config.model_type]
        layout = lay_out(batch.lengths, batch.device, family.CAUSAL)
        if batch.prefix is None:
            x, first = family.embed(backbone, batch.columns, layout), 0
        else:
            x, first = batch.prefix
        block = again if self.checkpointing and backbone.training else kept
        for layer in family.blocks(backbone)[first:end]:
            x = block(family.block, backbone, layer, x, layout, self.lean and backbone.training)
        return x

    def frozen_blocks(self, backbone: Any) -> int:
        """How many of the first blocks, and all below them, do not train."""
        family = FAMILIES[backbone.config.model_type]
        if any(trains(module) for module in family.bottom(backbone)):
            return 0
        blocks = family.blocks(backbone)
        return next((i for i, layer in enumerate(blocks) if trains(layer)), len(blocks))

    def frozen_part(self, backbone: Any, blocks: int) -> list[nn.Module]:
        """The modules below a block, by number."""
        family = FAMILIES[backbone.config.model_type]
        return [*family.bottom(backbone), *family.blocks(backbone)[:blocks]]

    def places(self, batch: Batch) -> int:
        """How many places of tokens it computes."""
        return batch.tokens if self.name == "packed" else batch.inputs["input_ids"].numel()

    def prepare(self, backbone: Any) -> None:
        """Set up a backbone; raises ValueError for one that this engine cannot run as it is."""
        if self.name == "transformers":
            if self.checkpointing:
                # The re-entrant form gives no gradient to a block whose input needs none.
                backbone.gradient_checkpointing_enable({"use_reentrant": False})
            return
        config = backbone.config
        for key, other in OTHERWISE.items():
            value = getattr(config, key, None)
            if value is not None and other(value):
                raise ValueError(
                    f"The model's config has {key}={value}, which train.engine=packed does not "
                    "compute; choose train.engine=transformers."
                )
