"""Models that predict tokens, of any architecture: the loss, its gradients, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from experiments.adapters.merged import in_transformers
from experiments.data.batches import IGNORED, Batch
from experiments.families.base import OUTPUT
from experiments.models.model import LanguageModel
from experiments.models.pretrained import Pretrained
from variants import adapt, adapter_layers
from variants.full import Full

LLAMA = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64,
}  # fmt: skip
ROTATED = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
KINDS: dict[str, dict[str, Any]] = {
    "llama": LLAMA | {"tie_word_embeddings": True},
    "llama, untied": LLAMA | {"tie_word_embeddings": False},
    "qwen2": LLAMA | {"tie_word_embeddings": False},
    "gpt_neox": ROTATED | {"tie_word_embeddings": False},  # on transformers' engine
    "olmo2": LLAMA | {"tie_word_embeddings": False},
}
REFUSED: dict[str, dict[str, Any]] = {
    "gemma2": LLAMA | {"head_dim": 8, "final_logit_softcapping": 3.0},
    "cohere": LLAMA | {"logit_scale": 0.1, "tie_word_embeddings": True},
    "granite": LLAMA | {"logits_scaling": 4.0},
    "phi": LLAMA | {"tie_word_embeddings": False},  # a bias over tokens
}


@pytest.fixture
def saved(tiny: Callable[[str], Path], tmp_path: Path) -> Callable[..., Pretrained]:
    """A tiny random model in a folder, with a tokenizer that fits it."""

    def save(kind: str, settings: dict[str, Any]) -> Pretrained:
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(tiny("gpt2"))
        own = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
        size = {"vocab_size": len(tokenizer)}
        config = AutoConfig.for_model(kind.partition(",")[0], **settings | own | size)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return Pretrained(
            name="m", path=str(tmp_path / "model"), package=None, revision=None, sha256=None,
            dropout=None, lr_scale=1.0, linears={},
        )  # fmt: skip

    return save


def batch_of(size: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    lengths = np.array([5, 3, 7])
    ids = torch.randint(0, size, (15,), generator=generator)
    labels = ids.clone()
    labels[[0, 1, 5, 8]] = IGNORED  # the first token of each is predicted by nothing
    return Batch({"input_ids": ids}, lengths, labels, np.arange(3), {"input_ids": 0})


def their_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    logits = model(**batch.inputs).logits[:, :-1].flatten(0, 1)
    targets = batch.padded(batch.labels, IGNORED)[:, 1:].flatten()
    return F.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_its_gradients_are_those_of_transformers(
    saved: Callable[..., Pretrained], kind: str
) -> None:
    pretrained = saved(kind, KINDS[kind])
    loaded = pretrained.load(0, torch.Generator(), "fp32")
    ours, batch = loaded.model.eval(), batch_of(len(loaded.tokenizer))
    assert isinstance(ours, LanguageModel)
    Full(lr=1e-3).adapt(ours.backbone)
    tied = KINDS[kind].get("tie_word_embeddings")
    assert hasattr(ours.backbone, OUTPUT) is not tied
    ours.loss(batch)[0].backward()
    theirs = AutoModelForCausalLM.from_pretrained(pretrained.path).eval()
    loss = their_loss(theirs, batch)
    loss.backward()
    torch.testing.assert_close(ours.loss(batch)[0], loss, rtol=1e-5, atol=1e-4)
    named = dict(ours.backbone.named_parameters())
    output = theirs.get_output_embeddings().weight
    own = named[f"{OUTPUT}.weight"] if not tied else ours.backbone.get_input_embeddings().weight
    torch.testing.assert_close(own.grad, output.grad, rtol=1e-4, atol=1e-4)
    for name, parameter in theirs.base_model.named_parameters():
        torch.testing.assert_close(named[name].grad, parameter.grad, rtol=1e-3, atol=1e-3)


def test_all_linears_are_not_the_output(saved: Callable[..., Pretrained]) -> None:
    backbone = saved("llama, untied", KINDS["llama, untied"]).load(0, torch.Generator(), "fp32")
    adapt(backbone.model.backbone, "lora", targets="all-linear")
    names = {name for name, _ in adapter_layers(backbone.model.backbone)}
    assert names and OUTPUT not in names


@pytest.mark.parametrize("kind", REFUSED)
def test_what_predicts_tokens_in_another_way_is_refused_and_may_classify(
    saved: Callable[..., Pretrained], kind: str
) -> None:
    pretrained = saved(kind, REFUSED[kind])
    with pytest.raises(ValueError, match=f"type '{kind}' .* more than a product"):
        pretrained.load(0, torch.Generator(), "fp32")
    loaded = pretrained.load(2, torch.Generator(), "fp32")
    assert loaded.model.eval()(batch_of(len(loaded.tokenizer))).shape == (3, 2)


@pytest.mark.parametrize("kind", ["llama", "llama, untied", "gpt_neox"])
def test_a_trained_model_is_written_with_its_own_output(
    saved: Callable[..., Pretrained], tmp_path: Path, kind: str
) -> None:
    pretrained = saved(kind, KINDS[kind])
    loaded = pretrained.load(0, torch.Generator(), "fp32")
    ours, batch = loaded.model.eval(), batch_of(len(loaded.tokenizer))
    with torch.no_grad():
        for parameter in ours.backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        expected = ours.loss(batch)[0]
    adapter: Any = SimpleNamespace(num_outputs=0)
    merged = in_transformers(adapter, ours, pretrained.config(), torch.float32)
    merged.save_pretrained(tmp_path / "merged")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(their_loss(theirs, batch), expected, rtol=1e-5, atol=1e-4)
