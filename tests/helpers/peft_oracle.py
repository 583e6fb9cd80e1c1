"""One layer in our words and in PEFT's, with the same tensors, in float64."""

import warnings
from copy import deepcopy
from typing import Any

import peft
import torch
import torch.nn as nn
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from torch.testing import assert_close

from variants.base import AdapterLayer, Foreign, Variant, adapter_layers
from variants.layerwise import Layerwise

NAME = "0"
ROOT = f"base_model.model.{NAME}."
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def base(d_in: int = 12, d_out: int = 8, bias: bool = True) -> nn.Sequential:
    """A model of one layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(d_in, d_out, bias=bias)).double()


def adapted(variant: Variant, model: nn.Module, std: float = 0.3) -> tuple[nn.Module, AdapterLayer]:
    """The model under a method, moved away from its start; a copy."""
    model = deepcopy(model)
    variant.adapt(model)
    model.double()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += std * torch.randn_like(parameter)
    (_, layer), *_ = adapter_layers(model)
    return model, layer


def in_peft(config: dict[str, Any], model: nn.Module) -> Any:
    """PEFT's model with a config of its own."""
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]]
    fields = {key: value for key, value in config.items() if key != "peft_type"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = kind(target_modules=[NAME], **fields)
        return peft.get_peft_model(deepcopy(model), made, autocast_adapter_dtype=False).double()


def assert_peft_agrees(variant: Variant, model: nn.Module, std: float = 0.3) -> Any:
    """Fail unless PEFT reads our form, computes and merges the same, and we read its form back."""
    ours, layer = adapted(variant, model, std)
    form = variant.to_peft(ours)
    theirs = in_peft(form.config, model)
    keys = {f"{ROOT}{end}": tensor for end, tensor in form.layers[NAME].items()}
    keys |= {f"base_model.{end}": tensor for end, tensor in form.shared.items()}
    read = set_peft_model_state_dict(theirs, keys)
    assert not read.unexpected_keys
    x = torch.randn(5, layer.W0.shape[1], dtype=torch.float64)
    assert_close(theirs(x), ours(x), **CLOSE)
    back = read_back(form.config, theirs)
    again, state = found_by(type(variant), back)
    other = deepcopy(model)
    again.adapt(other)
    other.double()
    again.load_state(other, state)
    assert_close(other(x), ours(x), **CLOSE)
    merged = theirs.merge_and_unload()[0]
    assert_close(merged.weight, layer.merged_weight(), **CLOSE)
    bias = layer.merged_bias()
    if bias is not None:
        assert_close(merged.bias, bias, **CLOSE)
    return again


def read_back(config: dict[str, Any], theirs: Any) -> Foreign:
    """What PEFT would store, as we read it."""
    stored = get_peft_model_state_dict(theirs)
    layers = {k.removeprefix(ROOT): t for k, t in stored.items() if k.startswith(ROOT)}
    shared = {k.removeprefix("base_model."): t for k, t in stored.items() if not k.startswith(ROOT)}
    own = theirs.peft_config["default"].to_dict() | {"peft_type": config["peft_type"]}
    return Foreign("peft", own, {NAME: layers}, shared)


def found_by(kind: type[Variant], form: Foreign) -> tuple[Variant, dict[str, Tensor]]:
    """The method that reads the form: this one, or one it inherits from."""
    for cls in kind.__mro__:
        if "from_foreign" in vars(cls) and cls not in (Variant, Layerwise):
            found = cls.from_foreign(form)
            if found is not None:
                return found
    raise AssertionError(f"No method reads the form of {kind.__name__}.")
