"""Checkpoints of other libraries: whose key is what, and GPT-2's fused projection.

Elsewhere GPT-2 has one matrix for q, k and v; here they are three linear layers. A pair of factors
for the fused matrix is a pair for each of the three with the same A, and adapters of the three
are one pair for the fused matrix, as a block of the sum of their ranks.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn as nn
from omegaconf import OmegaConf
from torch import Tensor
from transformers import PreTrainedModel

from experiments.adapters.saved import Adapter
from experiments.backbones.heads import from_transformers
from experiments.backbones.layers import SplitLinear
from experiments.families.base import family_of
from experiments.models.pretrained import Pretrained
from experiments.settings.sections import schema
from variants.base import Foreign, Variant

CONF = Path(__file__).parents[2] / "conf"
A, B, M = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"


def adapter_from(form: Foreign, base: Pretrained, head: dict[str, Tensor], folder: Path) -> Adapter:
    """The adapter that another library's form describes.

    Raises ValueError if no method here reads that form.
    """
    variant, state = read_form(form, folder)
    outputs = [len(t) for name, t in head.items() if name.startswith(PROJECTIONS)]
    return Adapter(
        variant=variant,
        model=base,
        weights=base.weights_hash(),
        precision="fp32",
        state=state,
        head=head,
        num_outputs=outputs[0] if outputs else 0,
        names=[],
        folder=folder,
    )


def read_form(form: Foreign, where: Path) -> tuple[Variant, dict[str, Tensor]]:
    """The method that a form describes, and its learned state.

    Raises ValueError if no method here reads that form.
    """
    for cls in methods():
        if "from_foreign" in vars(cls) and (found := cls.from_foreign(form)):
            return found
    kind = form.config.get("peft_type")
    raise ValueError(f"{where} is of PEFT's type {kind}, which no method here reads.")


WHOLE = ("weight", "bias")
WHOLE_TRAINED = "what was trained whole (modules_to_save) is read of a classifier's head alone"
PROJECTIONS = ("out_proj.weight", "score.weight")  # a head's last matrix, a row per output


def methods() -> Iterable[type[Variant]]:
    """The classes of all methods that have a config."""
    for path in sorted((CONF / "variant").glob("*.yaml")):
        yield schema(f"variant={path.stem}", OmegaConf.select(OmegaConf.load(path), "_target_"))


def widen(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of less than float32 in float32, so that no scale is applied in half precision."""
    return {
        n: t.float() if t.is_floating_point() and t.itemsize < 4 else t for n, t in tensors.items()
    }


@dataclass(frozen=True)
class Sorted:
    """A checkpoint's tensors: by layer and end of key, whole ones of the head, and the others."""

    layers: dict[str, dict[str, Tensor]]  # of the backbone
    head_layers: dict[str, dict[str, Tensor]]  # adapters of layers of the head, by our names
    head: dict[str, Tensor]
    shared: dict[str, Tensor]


def sort_keys(tensors: dict[str, Tensor], backbone: PreTrainedModel, where: Path) -> Sorted:
    """The tensors of a checkpoint by what they belong to.

    Raises ValueError for a key whose layer the backbone does not have.
    """
    prefix = f"{backbone.base_model_prefix}."
    names = family_of(backbone.config).head_names(backbone.config)
    linears = (nn.Linear, SplitLinear)
    known = {name for name, module in backbone.named_modules() if isinstance(module, linears)}
    heads = {theirs: ours for ours, theirs in names.items()}
    found = Sorted({}, {}, from_transformers(tensors, names), {})
    for key, tensor in tensors.items():
        if from_transformers({key: tensor}, names):
            continue
        name, end = split_key(key, heads)
        if name:
            found.head_layers.setdefault(heads[name], {})[end] = tensor
            continue
        name, end = split_key(key.removeprefix(prefix), known)
        if name and end not in WHOLE:
            found.layers.setdefault(name, {})[end] = tensor
        elif "." not in key:
            found.shared[key] = tensor
        else:
            reason = WHOLE_TRAINED if name else no_such_layer(key, backbone)
            raise ValueError(f"{where} has {key}, and {reason}.")
    if not found.layers:
        raise ValueError(f"{where} holds no tensor of a layer of this model.")
    return found


def split_key(key: str, known: Container[str]) -> tuple[str, str]:
    """The longest beginning of a key that is a known name, and what follows it."""
    parts = key.split(".")
    for i in range(len(parts), 0, -1):
        if ".".join(parts[:i]) in known:
            return ".".join(parts[:i]), ".".join(parts[i:])
    return "", key


def no_such_layer(key: str, backbone: PreTrainedModel) -> str:
    """Why a tensor has no place in this model."""
    name = key.removeprefix(f"{backbone.base_model_prefix}.")
    if name in backbone.state_dict():
        return WHOLE_TRAINED
    module, _ = split_key(name, modules := dict(backbone.named_modules()))
    if module and next(modules[module].parameters(recurse=False), None) is not None:
        kind = type(modules[module]).__name__
        return f"{module} is of type {kind}: only adapters of linear layers are read here"
    if name.startswith("pooler."):
        return "a model without a classifier has no pooler here"
    return "this model has no such layer"


def fuse_projections(form: Foreign, backbone: nn.Module) -> Foreign:
    """The form with GPT-2's projections as one; other models have none.

    Raises ValueError if the fused layer has no exact form.
    """
    layers = {}
    for name, tensors in form.layers.items():
        parent, _, _ = name.rpartition(".")
        module = backbone.get_submodule(parent)
        if not isinstance(module, SplitLinear):
            layers[name] = tensors
        elif parent not in layers:
            layers[parent] = fuse(form, parent, module)
    return replace(form, layers=layers)


def fuse(form: Foreign, name: str, split: SplitLinear) -> dict[str, Tensor]:
    """One block pair for a fused projection, and its row norms where the parts have them."""
    own = {p: form.layers[f"{name}.{p}"] for p in split.parts if f"{name}.{p}" in form.layers}
    first = next(iter(own.values()))
    if not {A, B} <= first.keys() <= {A, B, M}:
        raise ValueError(
            f"PEFT adapts {name} as one fused layer, and in its format {', '.join(sorted(first))} "
            "of a fused layer cannot say what separate q, k and v do; merge the adapter instead."
        )
    ranks = {part: len(tensors[A]) for part, tensors in own.items()}
    bare = {p: cast(Tensor, m.weight) for p, m in split.parts.items() if p not in own}
    heights = {p: len(own[p][B]) if p in own else len(bare[p]) for p in split.parts}
    block = first[B].new_zeros(sum(heights.values()), sum(ranks.values()))
    row = column = 0
    for part, height in heights.items():
        if part in own:
            block[row : row + height, column : column + ranks[part]] = own[part][B]
            column += ranks[part]
        row += height
    together = {A: torch.cat([tensors[A] for tensors in own.values()]), B: block}
    if M in first:
        # A part without an adapter keeps the lengths of its rows.
        together[M] = torch.cat(
            [own[p][M] if p in own else bare[p].float().norm(dim=1) for p in split.parts]
        )
    return together


def split_projections(form: Foreign, backbone: nn.Module) -> Foreign:
    """The form with each fused projection as three layers; other models have none.

    Raises ValueError if the parts of the fused layer have no exact form.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    alphas = dict(form.config.get("alpha_pattern", {}))
    for name, tensors in form.layers.items():
        module = backbone.get_submodule(name)
        if not isinstance(module, SplitLinear):
            layers[name] = tensors
            continue
        if not {A, B} <= tensors.keys() <= {A, B, M}:
            raise ValueError(
                f"{name} is one fused layer there and three here, and {', '.join(sorted(tensors))} "
                "of a fused layer have no exact form for three."
            )
        for part, piece in cut(tensors, list(module.parts)).items():
            layers[f"{name}.{part}"] = piece
            share = len(piece[A]) / len(tensors[A])
            alpha = alphas.get(name, form.config["lora_alpha"])
            power = 0.5 if form.config.get("use_rslora") else 1.0
            alphas[f"{name}.{part}"] = alpha * share**power
    return replace(form, config=form.config | {"alpha_pattern": alphas}, layers=layers)


def cut(tensors: dict[str, Tensor], parts: list[str]) -> dict[str, dict[str, Tensor]]:
    """A fused layer's tensors for each part; columns of B that are zero there are left out."""
    rows = {key: tensors[key].chunk(len(parts)) for key in tensors.keys() - {A}}
    pieces = {}
    for i, part in enumerate(parts):
        piece = {key: chunks[i].contiguous() for key, chunks in rows.items()}
        used = piece[B].any(dim=0)
        if M in piece and not used.any():
            used[0] = True  # its magnitude may have been trained all the same
        if used.any():
            pieces[part] = piece | {A: tensors[A][used], B: piece[B][:, used]}
    return pieces
