"""Checkpoints of other libraries: whose key is what, and GPT-2's fused projection.

Elsewhere GPT-2 has one matrix for q, k and v; here they are three linear layers. A pair of factors
for the fused matrix is a pair for each of the three with the same A, and adapters of the three
are one pair for the fused matrix, as a block of the sum of their ranks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn as nn
from omegaconf import OmegaConf
from torch import Tensor
from transformers import PreTrainedModel

from experiments.adapters.saved import Adapter
from experiments.config import schema
from experiments.heads import from_transformers
from experiments.layers import SplitLinear
from experiments.models import Pretrained
from variants.base import Foreign, Variant

CONF = Path(__file__).parents[2] / "conf"
A, B, M = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"


def adapter_from(form: Foreign, base: Pretrained, head: dict[str, Tensor], folder: Path) -> Adapter:
    """The adapter that another library's form describes.

    Raises ValueError where no method here reads that form.
    """
    for cls in methods():
        if "from_foreign" in vars(cls) and (found := cls.from_foreign(form)):
            variant, state = found
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
    kind = form.config.get("peft_type")
    raise ValueError(f"{folder} is of PEFT's type {kind}, which no method here reads.")


PROJECTIONS = ("out_proj.weight", "score.weight")  # a head's last matrix, a row per output


def methods() -> Iterable[type[Variant]]:
    """The classes of all methods that have a config."""
    for path in sorted((CONF / "variant").glob("*.yaml")):
        yield schema(f"variant={path.stem}", OmegaConf.select(OmegaConf.load(path), "_target_"))


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of less than float32 in float32, so that no scale is applied in half precision."""
    return {n: t if t.dtype == torch.float64 else t.float() for n, t in tensors.items()}


def sort_keys(
    tensors: dict[str, Tensor], backbone: PreTrainedModel, where: Path
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor], dict[str, Tensor]]:
    """A checkpoint's tensors by layer and end of key, the head's, and those of neither.

    Raises ValueError for a key whose layer the backbone does not have.
    """
    prefix = f"{backbone.base_model_prefix}."
    family = backbone.config.model_type
    head = from_transformers(tensors, family)
    linears = (nn.Linear, SplitLinear)
    known = {name for name, module in backbone.named_modules() if isinstance(module, linears)}
    layers: dict[str, dict[str, Tensor]] = {}
    shared: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if from_transformers({key: tensor}, family):
            continue
        parts = key.removeprefix(prefix).split(".")
        cut = next((i for i in range(len(parts), 0, -1) if ".".join(parts[:i]) in known), 0)
        if cut:
            layers.setdefault(".".join(parts[:cut]), {})[".".join(parts[cut:])] = tensor
        elif len(parts) == 1:
            shared[key] = tensor
        else:
            raise ValueError(f"{where} has {key}, and this model has no such layer.")
    if not layers:
        raise ValueError(f"{where} holds no tensor of a layer of this model.")
    return layers, head, shared


def fused(form: Foreign, backbone: nn.Module) -> Foreign:
    """The form with GPT-2's projections as one; other models have none.

    Raises ValueError where the fused layer has no exact form.
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


def unfused(form: Foreign, backbone: nn.Module) -> Foreign:
    """The form with each fused projection as three layers; other models have none.

    Raises ValueError where the parts of the fused layer have no exact form.
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
