"""The layers of a model that a method's targets name.

A target is the name of a layer or the end of its dotted name; a regular expression that the whole
name matches; `all-linear`, every linear layer but those of the head and of the output; `attention`,
the linear layers inside attention. `!TARGET` leaves out what TARGET matches, and `layers:0,1`,
`layers:0-3` or `layers:-1` leaves only these blocks, the last one being -1. Words mean linear
layers only; names and expressions mean convolutions and embeddings too.
"""

import re
import warnings
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import cast

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.conv import _ConvTransposeNd

from variants.forms import Dense, find_form, has_known_forward
from variants.state import shorten

NOT, BLOCKS = "!", "layers:"
ALL, ATTENTION = "all-linear", "attention"
TARGET_WORDS = (ALL, ATTENTION)
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def find_target_layers(
    model: nn.Module, targets: Iterable[str], method: str, linear_only: bool
) -> dict[str, nn.Module]:
    """The layers that the targets mean, each once under its first name, in the targets' order.

    Raises ValueError for a target that means nothing, and for a layer that the method cannot take.
    """
    targets = list(targets)
    layers = list_layers(model)
    wanted = [target for target in targets if not target.startswith((NOT, BLOCKS))]
    if not wanted:
        raise ValueError("targets must name at least one linear layer, got none.")
    left_out = {
        name
        for target in targets
        if target.startswith(NOT)
        for name in match_target(model, layers, target.removeprefix(NOT))
    }
    inside = make_block_filter(model, [t for t in targets if t.startswith(BLOCKS)])
    names = [name for target in wanted for name in match_target(model, layers, target)]
    found = [name for name in names if name not in left_out and inside(name)]
    if not found:
        raise ValueError(f"The targets {', '.join(targets)} leave no layer of this model.")
    warn_of_tensors(model, wanted)
    first = {id(layer): name for name, layer in reversed(layers.items())}
    chosen = {first[id(layers[name])]: layers[name] for name in found}
    for name, layer in chosen.items():
        check_layer(name, layer, method, linear_only)
    return chosen


def list_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer that has a form, by all of its names: one with two parents has two."""
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if name and find_form(module) is not None
    }


def match_target(model: nn.Module, layers: dict[str, nn.Module], target: str) -> list[str]:
    """The names that a target means; raises ValueError if there are none."""
    linears = [name for name, layer in layers.items() if is_linear(layer)]
    if target == ALL:
        outside = find_outputs(model)
        found = [name for name in linears if id(layers[name]) not in outside]
    elif target == ATTENTION:
        inside = find_attention(model)
        found = [name for name in linears if any(name.startswith(f"{n}.") for n in inside)]
    else:
        found = match_names(layers, target)
    if target in TARGET_WORDS:
        return select_by_word(target, {name: layers[name] for name in found})
    if not found:
        raise ValueError(describe_unknown_target(model, target, linears))
    return found


def select_by_word(word: str, layers: dict[str, nn.Module]) -> list[str]:
    """The names of those that are linear layers and nothing else; of others it is warned.

    Raises ValueError if no layer is left.
    """
    # Codes are kept: they are refused, with what to do.
    plain = [n for n, m in layers.items() if has_known_forward(m) or not is_floating(m)]
    others = [name for name in layers if name not in plain]
    kinds = ", ".join(sorted({type(layers[name]).__name__ for name in others}))
    if not plain:
        beside = (
            f" but for {kinds}, whose forward pass is its own: name its layers" if others else ""
        )
        raise ValueError(f"This model has no layers that '{word}' means{beside}.")
    if others:
        warnings.warn(
            f"'{word}' leaves out {shorten(others)} ({kinds}), whose forward pass is its own, as a "
            "router's; name those that are to be adapted.",
            stacklevel=2,
        )
    return plain


def is_floating(layer: nn.Module) -> bool:
    """Return whether the weight of a layer holds numbers, and not codes of few bits."""
    return cast(Tensor, layer.weight).dtype in FLOATING


def match_names(names: Iterable[str], target: str) -> list[str]:
    """The names that end in a target, or else those that it matches as a regular expression."""
    names = list(names)
    found = [name for name in names if name and f".{name}".endswith(f".{target}")]
    if not found and is_expression(target):
        found = [name for name in names if name and compile_expression(target).fullmatch(name)]
    return found


def is_linear(layer: nn.Module) -> bool:
    """Return whether a layer is a linear one, of torch's or of GPT-2's kind."""
    form = find_form(layer)
    return form is not None and form.dense


def is_expression(target: str) -> bool:
    """Return whether a target holds what no name does."""
    return re.search(r"[^\w.\-]", target) is not None


def compile_expression(target: str) -> re.Pattern[str]:
    """A target as a regular expression; raises ValueError for what is none."""
    try:
        return re.compile(target)
    except re.error as error:
        raise ValueError(f"The target '{target}' is no regular expression: {error}.") from None


def find_outputs(model: nn.Module) -> set[int]:
    """The ids of the modules in heads and outputs, as far as models say what those are.

    Transformers' models name the part that is pretrained, and the layer that predicts tokens.
    """
    found: set[int] = set()
    for module in model.modules():
        backbone = getattr(module, getattr(module, "base_model_prefix", "") or " ", None)
        if isinstance(backbone, nn.Module) and backbone is not module:
            own = {id(part) for part in backbone.modules()}
            found |= {id(part) for part in module.modules()} - own
        output = getattr(module, "get_output_embeddings", lambda: None)()
        if isinstance(output, nn.Module):
            found.add(id(output))
    return found


def find_attention(model: nn.Module) -> list[str]:
    """The names of modules that are attention, by their own name or their class's."""
    words = ("attention", "attn")
    return [
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if name
        and any(
            word in text.lower()
            for word in words
            for text in (name.rpartition(".")[2], type(module).__name__)
        )
        and find_form(module) is None
    ]


def make_block_filter(model: nn.Module, ranges: list[str]):
    """Return whether a name lies in one of the numbered blocks; without ranges, always."""
    if not ranges:
        return lambda name: True
    counts: dict[str, int] = {}
    for name, _ in model.named_modules(remove_duplicate=False):
        stack, number = split_block(name)
        if number is not None:
            counts[stack] = max(counts.get(stack, 0), number + 1)
    wanted = [number for text in ranges for number in parse_numbers(text)]
    for number in wanted:
        if not any(-count <= number < count for count in counts.values()):
            stacks = ", ".join(f"{stack or 'the model'} has {n}" for stack, n in counts.items())
            raise ValueError(f"There is no block {number}: {stacks or 'no module has a number'}.")

    def inside(name: str) -> bool:
        stack, number = split_block(name)
        return number is not None and (number in wanted or number - counts[stack] in wanted)

    return inside


def split_block(name: str) -> tuple[str, int | None]:
    """The stack of blocks that a name lies in, and the number of its block; None for no block."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[:i]), int(part)
    return "", None


def parse_numbers(text: str) -> Iterator[int]:
    """The numbers of `layers:0,2-4,-1`; raises ValueError for another text."""
    for part in text.removeprefix(BLOCKS).split(","):
        found = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", part)
        if found is None:
            raise ValueError(f"'{text}' must be {BLOCKS} and numbers of blocks, as {BLOCKS}0-3,-1.")
        first, last = found.groups()
        yield from range(int(first), int(last or first) + 1)


def describe_unknown_target(model: nn.Module, target: str, linears: Iterable[str]) -> str:
    """The sentence that says what a target is instead of a layer, and which layers there are."""
    other = describe_other(model, target)
    if other:
        return f"'{target}' names {other}, and no method here adapts that."
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in linears))
    near = get_close_matches(target, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(sorted(known)) or "no linear layer below the top"
    return f"No linear layer is named '{target}'.{hint} This model has: {listed}."


def describe_other(model: nn.Module, target: str) -> str | None:
    """A module without a form, or a parameter, that the target is the name of."""
    for name, parameter in model.named_parameters():
        if f".{name}".endswith(f".{target}"):
            return f"the parameter {name} of shape {list(parameter.shape)}"
    for name, module in model.named_modules():
        if name and f".{name}".endswith(f".{target}"):
            return f"{name}, a {type(module).__name__}"
    return None


def check_layer(name: str, layer: nn.Module, method: str, linear_only: bool) -> None:
    """Raise ValueError for a layer that the method, or any method, cannot take."""
    kind, form = type(layer).__name__, find_form(layer)
    assert form is not None
    if linear_only and not isinstance(layer, nn.Linear):
        raise ValueError(
            f"{method} adapts nn.Linear only, and {name} is a {kind}; leave it out: '{NOT}{name}'."
        )
    weight = cast(Tensor, layer.weight)
    expected = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
    if not is_floating(layer) or (isinstance(layer, nn.Linear) and tuple(weight.shape) != expected):
        raise ValueError(
            f"{name} is a {kind} with a weight {list(weight.shape)} of {weight.dtype}: codes, and "
            "not numbers that an adapter could belong to; load the model without quantisation."
        )
    if form is not Dense and (not has_known_forward(layer) or getattr(layer, "max_norm", None)):
        raise ValueError(
            f"{name} is a {kind} that does more than its weight says, so it cannot be adapted; "
            f"leave it out: '{NOT}{name}'."
        )


def warn_of_tensors(model: nn.Module, targets: list[str]) -> None:
    """Say which weights a target means, too, that lie in a parameter and in no layer."""
    words = set(TARGET_WORDS) & set(targets)
    bare = {
        f"{name}.{key}".removeprefix("."): parameter
        for name, module in model.named_modules()
        if find_form(module) is None and not isinstance(module, _ConvTransposeNd)
        for key, parameter in module.named_parameters(recurse=False)
        if holds_matrices(module, parameter)
    }
    named = [n for n in bare if words or any(f".{n}".endswith(f".{t}") for t in targets)]
    if named:
        more = f" and {len(named) - 1} more" if len(named) > 1 else ""
        warnings.warn(
            f"{named[0]} {list(bare[named[0]].shape)}{more} hold the weights of several matrices, "
            "as of experts or of queries, keys and values, in one parameter: they are not adapted.",
            stacklevel=2,
        )


def holds_matrices(module: nn.Module, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is the weight of several linear layers in one."""
    fused = isinstance(module, nn.MultiheadAttention | nn.RNNBase | nn.RNNCellBase)
    return parameter.dim() >= (2 if fused else 3) and min(parameter.shape) > 1
