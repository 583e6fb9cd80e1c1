"""The interface of a family of models: how it is loaded, its head, linears and packed pass.

A family is a file beside this one with an object `FAMILY`; `family_of` finds it by the `model_type`
of a config. A family without a packed pass runs on transformers' own modules.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar

import torch.nn as nn
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

import experiments.families as package
from experiments.backbones.gates import ACTIVATIONS
from experiments.backbones.layers import CastLinear
from experiments.backbones.stream import Layout

OUTPUT = "lm_head"  # a backbone's own layer over tokens, where it is not the embedding table
EVERYTHING_ELSE = "auto"  # the module of the family of all other models


@dataclass(frozen=True)
class Kept:
    """Values of a token that one block keeps for the backward pass, while its matrices are frozen.

    `width` times the model's width and `inner` times the feed-forward's; in bfloat16 they take
    `rounded` of the bytes of float32. Where attention drops, `scores` times the heads and the
    longest text in float32.
    """

    width: float
    inner: float
    rounded: float = 0.52
    scores: float = 0.0


class Family(ABC):
    """One family of models; objects hold no state."""

    model_types: ClassVar[tuple[str, ...]]
    causal: ClassVar[bool]  # a token sees only those before it
    packed: ClassVar[bool] = True  # there is a packed pass
    encoder_decoder: ClassVar[bool] = False  # one part reads a text, and another answers it
    kept: ClassVar[Kept] = Kept(5.0, 1.0)  # by the packed pass
    kept_padded: ClassVar[Kept] = Kept(8.0, 4.0, 0.75, 3.0)  # by transformers' own
    transposed: ClassVar[bool] = False  # transformers stores its matrices as [d_in, d_out]
    # Values of a config with which transformers computes something else than the packed pass.
    otherwise: ClassVar[Mapping[str, Any]] = {}

    def unsupported(self, config: PreTrainedConfig) -> str | None:
        """The setting of a config that the packed pass does not compute, else None."""
        if not self.packed:
            return f"model_type={config.model_type}"
        for key, other in self.otherwise.items():
            value = getattr(config, key, None)
            if value is not None and other(value):
                return f"{key}={value}"
        return None

    def loading(self, config: PreTrainedConfig) -> Mapping[str, Any]:
        """Further arguments of transformers' class for the bare backbone."""
        return {}

    def max_length(self, config: PreTrainedConfig) -> int:
        """The longest input in tokens."""
        return config.max_position_embeddings

    def plain(self, backbone: nn.Module) -> None:  # noqa: B027 (most models are plain)
        """Turn fused projections and odd layers into plain linear layers, in place."""

    def as_loaded(self, backbone: nn.Module, like: nn.Module) -> dict[str, Tensor]:
        """The weights of a plain backbone under transformers' names and in its layout."""
        return {name: t for name, t in backbone.state_dict().items() if name in like.state_dict()}

    def predicts_tokens(self, config: PreTrainedConfig) -> bool:
        """Return whether a model can predict the next token."""
        return self.causal

    def output_scale(self, config: PreTrainedConfig) -> float:
        """The factor on the last hidden states before the layer that predicts tokens."""
        return 1.0

    def prefix(self, backbone: PreTrainedModel) -> str:
        """Before the names of the backbone's modules in transformers' models with an output."""
        return f"{backbone.base_model_prefix}."

    def output(self, backbone: PreTrainedModel) -> nn.Linear:
        """The layer that predicts the next token: its own, or the embedding table as one."""
        if hasattr(backbone, OUTPUT):
            return backbone.get_submodule(OUTPUT)  # type: ignore[return-value]
        table: Any = backbone.get_input_embeddings()
        output = CastLinear(table.weight.shape[1], table.weight.shape[0], bias=False, device="meta")
        output.weight = table.weight
        return output

    def pretrained_head(self, config: PreTrainedConfig) -> Mapping[str, str]:
        """The modules of the head that are pretrained too, by our name: their name in a file."""
        return {}

    @abstractmethod
    def head(self, config: PreTrainedConfig, num_outputs: int) -> nn.Module:
        """The head for classification and regression, as transformers builds it."""

    @abstractmethod
    def head_names(self, config: PreTrainedConfig) -> Mapping[str, str]:
        """The modules of the head by our name: their name in a classifier of transformers."""

    @abstractmethod
    def tiny_config(self, **changes: Any) -> PreTrainedConfig:
        """A config of a model small enough for tests."""

    # The packed pass

    def context(self, backbone: Any, layout: Layout) -> Any:
        """Return what all blocks of one pass share, as rotations of positions; None if nothing."""
        return None

    def embed(self, backbone: Any, columns: dict[str, Tensor], layout: Layout) -> Tensor:
        """The input [tokens, d] of the first block."""
        raise NotImplementedError

    def below(self, backbone: Any) -> list[nn.Module]:
        """The modules below the first block."""
        raise NotImplementedError

    def blocks(self, backbone: Any) -> nn.ModuleList:
        """The blocks in order."""
        raise NotImplementedError

    def block(
        self, backbone: Any, context: Any, layer: Any, x: Tensor, layout: Layout, recompute: bool
    ) -> Tensor:
        """The states of the layout's queries behind one block, from those of all tokens."""
        raise NotImplementedError

    def finish(self, backbone: Any, x: Tensor) -> Tensor:
        """The last hidden states from those behind the last block."""
        return x


def unknown_activation(value: str) -> bool:
    """Return whether an activation is none that the packed passes compute."""
    return value not in ACTIVATIONS


@cache
def families() -> dict[str, Family]:
    """Every family by the name of its module."""
    names = sorted(one.name for one in iter_modules(package.__path__) if one.name != "base")
    return {name: import_module(f"{package.__name__}.{name}").FAMILY for name in names}


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a model; that of everything else if none names its type."""
    known = families()
    own = (one for one in known.values() if config.model_type in one.model_types)
    return next(own, known[EVERYTHING_ELSE])
