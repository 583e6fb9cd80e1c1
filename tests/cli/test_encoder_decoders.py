"""Encoder-decoders: loss, gradients and texts of transformers', every method, and what is kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures import save_t5
from conftest import VARIANTS, vocabulary
from peft import PeftModel
from runs import assert_equal_runs, killed_after
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
)

from experiments.adapters import saved
from experiments.adapters.merged import write_merged
from experiments.adapters.peft_format import read_peft, write_peft
from experiments.families.base import OUTPUT, families
from experiments.models import inference
from experiments.models.decoding import Decoding
from experiments.models.generation import generate
from experiments.models.loading import read_config
from experiments.models.model import LanguageModel
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read
from variants.base import adapter_layers

KINDS = {
    "t5": {}, "t5, 1.1": {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
    "mt5": {"model_type": "mt5"}, "umt5": {"model_type": "umt5"},
}  # fmt: skip
FEW = (
    "data.train=24", "data.test=8", "train.epochs=1", "train.batch_size=8", "compute.device=cpu",
    "tracker.mode=disabled", "train.max_length=64", "task.metrics=[BLEU]",
    "task.decoding.max_tokens=6",
)  # fmt: skip
# How methods that look for layers by name are told these; T5 has no biases for BitFit to train.
OWN = {"ia3": ["variant.feedforward=[wo]"], "last_k": ["variant.blocks=decoder.block"]}
EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    known: dict[str, Path] = {}

    def make(kind: str = "t5") -> Path:
        if kind not in known:
            known[kind] = tmp_path_factory.mktemp("t5")
            save_t5(known[kind], **KINDS[kind])
        return known[kind]

    return make


@pytest.fixture
def run_of(folder: Callable[[str], Path]) -> Callable[..., Run]:
    def make(variant: str = "lora", *overrides: str, kind: str = "t5") -> Run:
        path = f"model.path={folder(kind)}"
        return read(
            compose_config(
                "task=e2e", "model=t5_base", path, f"variant={variant}", *FEW, *overrides
            )
        )

    return make


def loaded_case(run: Run, double: bool = True) -> tuple[LanguageModel, Any, list]:
    """The adapted model, a batch of it, and the rows of tokens that the batch is made of."""
    data = run.task.load(run.data)
    loaded = run.model.load(0, torch.Generator(), "fp32")
    encoded = run.task.encode(loaded.tokenizer, data.train, 64)
    rows = [(list(ids[:n]), list(ids[n:])) for ids, n in zip(
        np.split(encoded.columns["input_ids"], np.cumsum(encoded.lengths)[:-1]),
        encoded.prompt_lengths, strict=True)]  # fmt: skip
    assert isinstance(loaded.model, LanguageModel)
    run.variant.adapt(loaded.model.backbone)
    if double:
        loaded.model.double()
    return loaded.model.eval(), encoded.batch(np.arange(5)), rows[:5]


def their_loss(model: Any, rows: list) -> torch.Tensor:
    """The summed loss by transformers' own class, row by row, on float64 logits."""
    total = torch.zeros((), dtype=torch.float64)
    for prompt, target in rows:
        labels = torch.tensor([target], dtype=torch.long)
        logits = model(input_ids=torch.tensor([prompt]), labels=labels).logits[0]
        total = total + F.cross_entropy(logits, labels[0], reduction="sum")
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_transformers(run_of: Callable[..., Run], kind: str) -> None:
    run = run_of("full", kind=kind)
    ours, batch, rows = loaded_case(run)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(run.model.path).double().eval()
    assert hasattr(ours.backbone, OUTPUT) == (kind == "t5, 1.1")
    assert all(prompt[-1] == 1 and target[-1] == 1 for prompt, target in rows)
    loss, each = ours.loss(batch)
    with torch.no_grad():
        assert float(their_loss(theirs, rows)) == pytest.approx(float(loss), rel=1e-7)
    families()["t5"].plain(theirs)  # whose norms round to float32
    expected = their_loss(theirs, rows)
    torch.testing.assert_close(loss, expected, **EXACT)
    torch.testing.assert_close(each[:, 0].sum(), expected, **EXACT)
    assert each[:, 1].sum() == sum(len(target) for _, target in rows)
    loss.backward()
    expected.backward()
    named = dict(ours.backbone.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(named[name].grad, parameter.grad, **EXACT)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "bitfit"])
def test_a_method_has_the_same_function_in_place_merged_and_restored(
    run_of: Callable[..., Run], variant: str
) -> None:
    run = run_of(variant, *OWN.get(variant, []))
    ours, batch, _ = loaded_case(run, double=False)
    with torch.no_grad():
        started = ours.loss(batch)[0]
        for parameter in (p for p in ours.backbone.parameters() if p.requires_grad):
            parameter += 0.02 * torch.randn_like(parameter)
        moved = ours.loss(batch)[0]
        state = run.variant.learned_state(ours.backbone)
        other = run.model.load(0, torch.Generator(), "fp32").model.eval()
        plain = other.loss(batch)[0]
        run.variant.adapt(other.backbone)
        run.variant.load_state(other.backbone, state)
        torch.testing.assert_close(other.loss(batch)[0], moved)
        for name, layer in list(adapter_layers(other.backbone)):
            replace_with(other.backbone, name, layer.merge())
        torch.testing.assert_close(other.loss(batch)[0], moved, rtol=1e-4, atol=1e-3)
    if run.variant.starts_as_pretrained:
        torch.testing.assert_close(started, plain, rtol=1e-4, atol=1e-3)
    sides = {name.partition(".")[0] for name, _ in adapter_layers(ours.backbone)}
    assert sides in ({"encoder", "decoder"}, set())


def replace_with(model: Any, name: str, module: Any) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_those_of_transformers_one_by_one(run_of: Callable[..., Run], beams: int) -> None:
    run = run_of()
    ours, _, rows = loaded_case(run, double=False)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(run.model.path).eval()
    how = Decoding(
        beams=beams, length_penalty=1.0, no_repeat_ngram=0, max_tokens=7, end=[], batch_size=3
    )
    settings = GenerationConfig(
        num_beams=beams, max_new_tokens=7, eos_token_id=1, pad_token_id=0, do_sample=False,
        decoder_start_token_id=0, early_stopping="never" if beams > 1 else False,
    )  # fmt: skip
    prompts = [prompt for prompt, _ in rows]
    found = generate(ours.backbone, [prompt[:-1] for prompt in prompts], how, [1])
    assert found == generate(ours.backbone, prompts, how, [1]), "the end is added where it lacks"
    for prompt, tokens in zip(prompts, found, strict=True):
        (own,) = theirs.generate(torch.tensor([prompt]), generation_config=settings).tolist()
        expected = own[1 : own.index(1, 1)] if 1 in own[1:] else own[1:]
        assert tokens == expected
    once = replace(how, no_repeat_ngram=1)
    for tokens in generate(ours.backbone, prompts, once, [1]):
        assert len(set(tokens)) == len(tokens)


@pytest.mark.parametrize("kind", ["t5", "t5, 1.1"])
def test_a_run_is_trained_merged_exported_and_read_back(
    run_of: Callable[..., Run], tmp_path: Path, kind: str
) -> None:
    run = run_of("lora", "variant.targets=${model.linears.attention}", "variant.lr=0.01", kind=kind)
    result = execute(run, tmp_path / "run")
    assert result.status == "complete" and result.provenance["engine"] == "transformers"
    assert "BLEU" in result.scores["test"] and np.isfinite(result.scores["test"]["loss"])
    adapter = saved.read_adapter(tmp_path / "run")
    trained = saved.restore(tmp_path / "run").loaded
    data = run.task.load(run.data)
    encoded = run.task.encode(trained.tokenizer, data.train, 64)
    ours = inference.outputs(trained.model, encoded, 8)[:5, 0].sum()
    _, _, rows = loaded_case(run)
    write_merged(adapter, tmp_path / "merged")
    merged = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()
    write_peft(adapter, tmp_path / "peft")
    base = AutoModelForSeq2SeqLM.from_pretrained(run.model.path)
    peft = PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    assert peft.active_peft_config.task_type == "SEQ_2_SEQ_LM"
    again = read_peft(tmp_path / "peft", run.model)
    assert again.state.keys() == adapter.state.keys()
    assert all(torch.equal(again.state[name], adapter.state[name]) for name in adapter.state)
    for other in (merged, peft):
        with torch.no_grad():
            assert float(their_loss(other, rows)) == pytest.approx(float(ours), rel=1e-4)


def test_a_run_taken_up_again_ends_where_it_would_have(
    run_of: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("lora", "record.log_every=1", "record.checkpoint_every=0", "train.epochs=2")
    execute(run, tmp_path / "unbroken")
    with killed_after(monkeypatch, 3):
        execute(run, tmp_path / "broken")
    resumed = execute(run, tmp_path / "broken")
    assert resumed.cost["restarts"] == 1
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")


def test_choices_among_words_classify(folder: Callable[[str], Path], tmp_path: Path) -> None:
    words = [word for word in vocabulary() if word.isalpha()]
    rows = [
        {"text": f"{words[2 + i % 2]} {words[i]} {words[i + 1]}", "label": words[i % 2]}
        for i in range(24)
    ]
    for split in ("train", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
    run = read(compose_config(
        "task=gsm8k", "model=t5_base", f"model.path={folder('t5')}", "variant=lora", "data=local",
        f"data.dir={tmp_path}", "task.prompt='{text}'", "task.target='{label}'", "task.answer=null",
        f"task.choices=['{words[0]}','{words[1]}']", "train.epochs=20", "train.batch_size=8",
        "compute.device=cpu", "tracker.mode=disabled", "variant.lr=0.02", "train.max_length=64",
        "variant.targets=[all-linear]",
    ))  # fmt: skip
    result = execute(run, tmp_path / "run")
    assert set(result.predictions["prediction"]) <= {words[0], words[1]}
    assert result.scores["test"]["exact_match"] == 1.0


def test_bfloat16_keeps_the_loss_to_its_digits(run_of: Callable[..., Run]) -> None:
    run = run_of()
    ours, batch, _ = loaded_case(run, double=False)
    rounded = run.model.load(0, torch.Generator(), "bf16").model.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            rounded.loss(batch)[0], ours.loss(batch)[0], rtol=0.02, atol=0.0, check_dtype=False
        )


def test_a_head_and_other_encoder_decoders_are_refused_in_one_sentence(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    few = (f"model.path={folder('t5')}", "data.train=8", "data.dev=8", "tracker.mode=disabled")
    run = read(compose_config("task=sst2", "model=t5_base", "variant=lora", *few))
    with pytest.raises(ValueError, match="answers in words and has no head here"):
        execute(run, tmp_path / "run")
    text = tmp_path / "general.txt"
    text.write_text("a b c\n")
    run = read(compose_config("task=e2e", "model=t5_base", f"forgetting.file={text}", *few))
    with pytest.raises(ValueError, match="goes on with a text, and t5_base answers one"):
        execute(run, tmp_path / "run")
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 64}
    BartForConditionalGeneration(BartConfig(**small)).save_pretrained(tmp_path / "bart")
    with pytest.raises(ValueError, match="type 'bart', and of those only t5, mt5, umt5 have"):
        read_config(tmp_path / "bart")
