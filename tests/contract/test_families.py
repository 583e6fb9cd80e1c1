"""Families of models: found by their type, equal to transformers, and honest on what they lack."""

import numpy as np
import pytest
import torch
from passes import CLOSE, LENGTHS, backbone_of, batch_of, states_and_gradients
from transformers import AutoModel

from experiments.backbones.layers import store_matrices
from experiments.families.base import EVERYTHING_ELSE, families, family_of
from experiments.models.engine import Engine
from variants.base import adapter_layers
from variants.lora import LoRA

FAMILIES = families()
PACKED = [
    (name, kind)
    for name, family in FAMILIES.items()
    if family.packed
    for kind in family.model_types
]


@pytest.mark.parametrize("family, kind", PACKED)
def test_packed_states_and_gradients_are_those_of_transformers(family: str, kind: str) -> None:
    config = FAMILIES[family].tiny_config(model_type=kind)
    assert family_of(config) is FAMILIES[family]
    backbone, batch = backbone_of(config), batch_of(config)
    backbone.eval()
    targets = sorted({n.rpartition(".")[2] for n, m in backbone.named_modules()
                      if isinstance(m, torch.nn.Linear)})  # fmt: skip
    LoRA(lr=1e-3, rank=4, alpha=8.0, dropout=0.0, rslora=False, targets=targets).adapt(backbone)
    backbone.double()
    with torch.no_grad():
        for _, layer in adapter_layers(backbone):
            for parameter in layer.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
    for places in (np.arange(batch.tokens), np.cumsum(LENGTHS) - 1):
        for engine in (Engine(), Engine(recompute_mlp=True), Engine(checkpointing=True)):
            ours, our_gradients = states_and_gradients(backbone, batch, engine, places)
            theirs, their_gradients = states_and_gradients(
                backbone, batch, Engine("transformers"), places
            )
            # transformers makes Gemma 2's softmax in float32.
            near = {"rtol": 1e-5, "atol": 1e-5} if kind == "gemma2" else CLOSE
            torch.testing.assert_close(ours, theirs, **near)
            torch.testing.assert_close(our_gradients, their_gradients, **near)


@pytest.mark.parametrize("engine", ["packed", "transformers"])
@pytest.mark.parametrize("family, kind", PACKED)
def test_products_of_a_bfloat16_model_are_made_in_bfloat16(
    family: str, kind: str, engine: str
) -> None:
    config = FAMILIES[family].tiny_config(model_type=kind)
    backbone, batch, places = backbone_of(config), batch_of(config), np.cumsum(LENGTHS) - 1
    backbone.float().eval()
    exact = Engine(engine).states(backbone, batch, places)
    store_matrices(backbone, torch.bfloat16)
    met = set()
    for module in backbone.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda m, x, y: met.update((x[0].dtype, y.dtype)))
    rounded = Engine(engine).states(backbone, batch, places)
    assert met == {torch.bfloat16} and rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("family, kind", PACKED)
def test_a_plain_backbone_goes_back_to_what_transformers_loads(family: str, kind: str) -> None:
    config = FAMILIES[family].tiny_config(model_type=kind)
    backbone = backbone_of(config, double=False).eval()
    like = AutoModel.from_config(config, **FAMILIES[family].loading(config)).eval()
    like.load_state_dict(FAMILIES[family].as_loaded(backbone, like))
    ids = batch_of(config).columns["input_ids"][None]
    with torch.no_grad():
        theirs, ours = (model(ids).last_hidden_state for model in (like, backbone))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("family, kind", PACKED)
def test_frozen_blocks_are_those_below_what_trains(family: str, kind: str) -> None:
    config = FAMILIES[family].tiny_config(model_type=kind)
    backbone = backbone_of(config, double=False).requires_grad_(False)
    blocks = FAMILIES[family].blocks(backbone)
    assert Engine().frozen_blocks(backbone) == len(blocks) == 2
    batch = batch_of(config)
    below = Engine().below(backbone, batch, 1)
    for parameter in blocks[1].parameters():
        parameter.requires_grad_(True)
    assert Engine().frozen_blocks(backbone) == 1
    assert below.shape == (batch.tokens, config.hidden_size)
    next(FAMILIES[family].below(backbone)[0].parameters()).requires_grad_(True)
    assert Engine().frozen_blocks(backbone) == 0


def test_a_model_of_no_family_runs_on_transformers_own_modules(
    caplog: pytest.LogCaptureFixture,
) -> None:
    family = FAMILIES[EVERYTHING_ELSE]
    config = family.tiny_config()
    assert family_of(config) is family and not family.packed
    backbone, batch = backbone_of(config), batch_of(config)
    with caplog.at_level("INFO"):
        engine = Engine().prepare(backbone)
    assert engine == Engine("transformers")
    assert "no packed pass for model_type=distilbert: transformers' own" in caplog.text
    with pytest.raises(ValueError, match=r"compute\.recompute_mlp needs a packed pass.*distilbert"):
        Engine(recompute_mlp=True).prepare(backbone)
    states = engine.states(backbone.eval(), batch, np.arange(batch.tokens))
    assert states.shape == (batch.tokens, config.hidden_size)
