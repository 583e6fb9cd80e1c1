"""Decoders with rotated positions: every kind of rotation, grouped heads, and who is left out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from passes import CLOSE, backbone_of, batch_of, compute_norms_exactly, states_and_gradients
from transformers import AutoModelForCausalLM, PreTrainedConfig

from experiments.backbones.stream import lay_out
from experiments.data.batches import IGNORED, Batch
from experiments.families.base import OUTPUT, families, family_of
from experiments.models.engine import Engine
from experiments.models.generation import language_model
from experiments.models.loading import with_own_output
from experiments.models.model import LanguageModel
from variants.base import adapter_layers
from variants.lora import LoRA

LLAMA = families()["llama"]
LIMIT = 8  # positions of the first training, which some of the test's texts exceed
ROTATIONS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 50.0},
    "linear": {"rope_type": "linear", "rope_theta": 50.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 50.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3", "rope_theta": 50.0, "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": LIMIT,
    },
    "yarn": {
        "rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0, "beta_fast": 2.0,
        "original_max_position_embeddings": LIMIT,
    },
    "longrope": {
        "rope_type": "longrope", "rope_theta": 50.0, "factor": 4.0,
        "original_max_position_embeddings": LIMIT,
        "short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [2.0, 3.0, 5.0, 7.0],
    },
}  # fmt: skip
KINDS = [(kind, name) for name in ROTATIONS for kind in ("llama", "qwen2")]
KINDS += [("phi3", "default"), ("phi3", "longrope")]  # its config takes no others
HEADS = {"each its own": 4, "in pairs": 2, "one for all": 1}


def decoder(kind: str = "llama", **changes: Any) -> tuple[Any, PreTrainedConfig]:
    """A random decoder in float64 with LoRA that has moved on all of its linear layers."""
    config = LLAMA.tiny_config(**{"model_type": kind, **changes})
    backbone = backbone_of(config).eval()
    LoRA(
        lr=1e-3, rank=4, alpha=8.0, dropout=0.0, rslora=False, targets=["all-linear"]
    ).adapt(backbone)  # fmt: skip
    backbone.double()
    with torch.no_grad():
        for _, layer in adapter_layers(backbone):
            for parameter in (p for p in layer.parameters() if p.requires_grad):
                parameter += 0.1 * torch.randn_like(parameter)
    return backbone, config


def check_equal(backbone: Any, config: PreTrainedConfig) -> None:
    """Fail unless the packed states and LoRA's gradients are those of transformers."""
    batch = batch_of(config)
    assert LLAMA.unsupported(config) is None
    for places in (np.arange(batch.tokens), np.cumsum(batch.lengths) - 1):
        ours = states_and_gradients(backbone, batch, Engine(), places)
        theirs = states_and_gradients(backbone, batch, Engine("transformers"), places)
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize(("kind", "rotation"), KINDS)
def test_a_rotation_is_that_of_transformers(kind: str, rotation: str) -> None:
    settings = dict(ROTATIONS[rotation])
    limit = LIMIT if rotation == "dynamic" else 140
    backbone, config = decoder(kind, rope_parameters=settings, max_position_embeddings=limit)
    assert family_of(config) is LLAMA and backbone.rotary_emb.config is config
    check_equal(backbone, config)


@pytest.mark.parametrize("rotation", [name for name in ROTATIONS if name != "default"])
def test_a_rotation_changes_the_states(rotation: str) -> None:
    states = []
    for name in ("default", rotation):
        backbone, config = decoder(
            rope_parameters=dict(ROTATIONS[name]), max_position_embeddings=LIMIT
        )
        batch = batch_of(config)
        states.append(Engine().states(backbone, batch, np.arange(batch.tokens)))
    assert (states[0] - states[1]).abs().max() > 1e-3


@pytest.mark.parametrize("part", [0.25, 0.5])
def test_a_part_of_each_head_is_turned(part: float) -> None:
    turned = {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": part}
    backbone, config = decoder("phi3", rope_parameters=turned, head_dim=8)
    layout = lay_out(batch_of(config).lengths, torch.device("cpu"), causal=True)
    assert LLAMA.context(backbone, layout)["full_attention"][0].shape[-1] == 8 * part
    check_equal(backbone, config)


@pytest.mark.parametrize("groups", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
def test_grouped_keys_and_values_are_those_of_transformers(kind: str, groups: int) -> None:
    check_equal(*decoder(kind, num_key_value_heads=groups))


def predicted(config: PreTrainedConfig) -> Batch:
    """Random tokens, each to be predicted but the first of a text."""
    batch = batch_of(config)
    labels = batch.columns["input_ids"].clone()
    labels[np.cumsum(batch.lengths) - batch.lengths] = IGNORED
    return replace(batch, labels=labels)


@pytest.mark.parametrize("rotation", ["linear", "yarn", "llama3"])
def test_an_output_of_its_own_predicts_as_transformers_does(rotation: str) -> None:
    settings = {"rope_parameters": dict(ROTATIONS[rotation]), "tie_word_embeddings": False}
    config = LLAMA.tiny_config(**settings)
    torch.manual_seed(0)
    backbone: Any = with_own_output(AutoModelForCausalLM.from_config(config)).double()
    compute_norms_exactly(backbone)
    assert backbone.get_submodule(OUTPUT).weight is not backbone.embed_tokens.weight
    model, batch = LanguageModel(backbone).eval(), predicted(config)
    LoRA(
        lr=1e-3, rank=4, alpha=8.0, dropout=0.0, rslora=False, targets=["all-linear"]
    ).adapt(backbone)  # fmt: skip
    backbone.double()
    with torch.no_grad():
        for _, layer in adapter_layers(backbone):
            layer.B.normal_()  # type: ignore[operator,union-attr]
    trained = [p for p in backbone.parameters() if p.requires_grad]
    ours = model.loss(batch)[0]
    logits = language_model(backbone)(**batch.inputs).logits[:, :-1].flatten(0, 1)
    targets = batch.padded(predicted(config).labels, IGNORED)[:, 1:].flatten()  # type: ignore[arg-type]
    theirs = F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    gradients = [torch.autograd.grad(loss, trained) for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, **CLOSE)


GEMMAS: dict[str, dict[str, Any]] = {
    "attn_logit_softcapping=50.0": {"model_type": "gemma2", "attn_logit_softcapping": 50.0},
    "use_bidirectional_attention=True": {
        "model_type": "gemma3_text", "use_bidirectional_attention": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("setting", GEMMAS)
def test_a_gemma_without_a_packed_pass_says_why_and_runs_on_transformers(
    setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    backbone, config = decoder(kind=GEMMAS[setting]["model_type"], **GEMMAS[setting])
    batch = batch_of(config)
    with caplog.at_level("INFO"):
        engine = Engine().prepare(backbone)
    assert f"There is no packed pass for {setting}: transformers' own" in caplog.text
    states = engine.states(backbone, batch, np.arange(batch.tokens))
    padded = backbone(**batch.inputs).last_hidden_state
    torch.testing.assert_close(states, padded[batch.inputs["attention_mask"].bool()])


def test_a_gemma_says_which_text_is_longer_than_its_window() -> None:
    backbone, config = decoder("gemma3_text", sliding_window=LIMIT)
    batch = batch_of(config)
    with pytest.raises(ValueError, match=r"12 tokens.* sliding_window is 8: .*=transformers"):
        Engine().states(backbone, batch, np.arange(batch.tokens))
    states = Engine("transformers").states(backbone, batch, np.arange(batch.tokens))
    assert states.shape == (batch.tokens, config.hidden_size)
