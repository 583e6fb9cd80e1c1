"""The shipped backbones, and the pretraining that makes them anew."""

import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoTokenizer,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaForMaskedLM,
)

from experiments.api import composed
from experiments.config import build, read
from experiments.mini import objectives, pretrain
from experiments.mini.objectives import Objective, Recipe
from experiments.mini.text import TELLING, passages

NAMES = list(pretrain.RECIPES)
SHIPPED = {name: ROOT / "experiments/mini/weights" / name for name in NAMES}
KINDS = {"mini_roberta": RobertaForMaskedLM, "mini_gpt2": GPT2LMHeadModel}


def small(name: str, **changes: object) -> Recipe:
    return replace(Recipe(name=name, steps=6, batch_size=4, vocabulary=300), **changes)


@pytest.fixture(scope="module")
def started() -> dict[str, Objective]:
    """A fresh objective of each kind."""
    return {name: pretrain.start(small(name)) for name in NAMES}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge by few passages."""
    monkeypatch.setattr(objectives, "HELD_OUT", 128)


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(SHIPPED[name])


# What is shipped


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_small_and_of_float16(name: str) -> None:
    file = SHIPPED[name] / "model.safetensors"
    assert file.stat().st_size <= 6e6
    tensors = load_file(file).values()
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert 1e6 <= sum(tensor.numel() for tensor in tensors) <= 3e6


@pytest.mark.parametrize("name", NAMES)
def test_setting_card_and_file_agree(name: str) -> None:
    model = build("model", OmegaConf.load(ROOT / f"conf/model/{name}.yaml"))
    digest = model.weights_hash()  # raises where it is not that of the setting
    card = (SHIPPED[name] / "README.md").read_text()
    assert digest == model.sha256 and digest in card
    for said in ("parameters", "data", "recipe", "seed", "held-out loss", "duration"):
        assert f"| {said} |" in card


@pytest.mark.parametrize("name", NAMES)
def test_transformers_reads_the_backbone_and_the_language_model(name: str) -> None:
    whole, report = KINDS[name].from_pretrained(SHIPPED[name], output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    without = {"add_pooling_layer": False} if name == "mini_roberta" else {}
    backbone = AutoModel.from_pretrained(SHIPPED[name], **without)
    for one, other in zip(
        backbone.parameters(), getattr(whole, whole.base_model_prefix).parameters(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["zqx JÜRGEN's #1: 4.5% -- ok?", "日本語 \t\n😀", "\x00 é̂"])
def test_any_text_can_be_read(name: str, text: str) -> None:
    found = tokenizer(name)
    ids = found(text, add_special_tokens=False)["input_ids"]
    assert found.decode(ids).removeprefix(" ") == text
    assert not set(ids) & set(found.all_special_ids)


def test_texts_stand_in_the_frame_of_their_family() -> None:
    encoder, decoder = tokenizer("mini_roberta"), tokenizer("mini_gpt2")
    assert encoder.decode(encoder("A b.", "C.")["input_ids"]) == "<s> A b.</s></s> C.</s>"
    assert encoder.mask_token_id is not None
    assert decoder.decode(decoder("A b.")["input_ids"]) == " A b."
    assert decoder.eos_token == "<|endoftext|>"
    # A word is one token, wherever it stands.
    assert decoder("film the film")["input_ids"][0] == decoder("film the film")["input_ids"][2]


@pytest.mark.parametrize("name", NAMES)
def test_words_that_tell_are_one_token_in_every_form_that_the_text_has(name: str) -> None:
    texts = [text for passage in islice(passages(7), 500) for text in passage]
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    telling = [word for word in words if word.lower() in TELLING]
    assert len(telling) > 15
    assert all(len(tokenizer(name).tokenize(word)) == 1 for word in telling)


def test_a_path_takes_the_place_of_what_is_shipped(tmp_path: Path) -> None:
    model = read(composed("model=mini_roberta", f"model.path={tmp_path}")).model
    assert model.folder() == tmp_path
    assert read(composed("model=mini_roberta")).model.folder() == SHIPPED["mini_roberta"]


@pytest.mark.parametrize("name", NAMES)
def test_pretraining_taught_something(name: str, few: None) -> None:
    judged = pretrain.shipped(name)
    learned = pretrain.held_out_loss(judged)
    assert learned == pretrain.held_out_loss(judged)
    torch.manual_seed(0)
    for parameter in judged.model.parameters():
        parameter.data.normal_(0.0, 0.02)
    assert learned < pretrain.held_out_loss(judged) / 3


# How it is made


@pytest.mark.parametrize("name", NAMES)
def test_guesses_are_judged_as_transformers_judges_them(
    started: dict[str, Objective], name: str
) -> None:
    objective, seen = started[name], {}
    model = objective.model

    def hook(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        seen.update(kwargs)

    handle = model.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    rows = objective.batch(3)
    with torch.no_grad():
        losses = objective.loss(rows, torch.Generator().manual_seed(1), shifted=0.0)
    handle.remove()
    ids = torch.full((len(rows), max(map(len, rows))), 0)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, : len(row)] = torch.tensor(row)
    mask = (torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])).long()
    shown = seen["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=shown, attention_mask=mask).logits
    if name == "mini_gpt2":
        assert torch.equal(shown, ids)
        expected = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
        )
        torch.testing.assert_close(losses, expected[labels[:, 1:].flatten() >= 0])
        return
    # Every loss is that of the true token at some place, and masked places are among them.
    log_shares = torch.log_softmax(logits, dim=-1)
    true = -log_shares.gather(2, ids[..., None])[..., 0]
    near = (losses[:, None] - true.flatten()[None]).abs().min(dim=1).values
    assert float(near.max()) < 1e-4
    assert int((shown == 4).sum()) <= len(losses) < int(mask.sum())


def test_words_that_tell_are_masked_or_left_and_never_replaced(
    started: dict[str, Objective],
) -> None:
    objective = started["mini_roberta"]
    assert isinstance(objective, objectives.Masked)
    ids = torch.arange(len(objective.tokenizer)).repeat(40, 1)
    telling = objective.telling[ids]
    generator = torch.Generator().manual_seed(0)
    shown = objective.corrupted(ids, torch.ones_like(telling), telling, generator)
    assert (shown[telling] == 4).all() and telling.any()
    plain = shown[~telling & (ids != 4)]
    kept = (plain == ids[~telling & (ids != 4)]).float().mean()
    assert float((plain == 4).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert float(kept) == pytest.approx(0.1, abs=0.02)


def test_a_passage_is_one_text_or_cut_behind_its_first_sentence(
    started: dict[str, Objective],
) -> None:
    texts = [started["mini_gpt2"].tokenizer.decode(row) for row in started["mini_gpt2"].batch(0)]
    assert all(text.endswith("<|endoftext|>") for text in texts)
    pairs = [text for batch in range(8) for row in started["mini_roberta"].batch(batch)
             if "</s></s>" in (text := started["mini_roberta"].tokenizer.decode(row))]  # fmt: skip
    assert 8 < len(pairs) < 32
    for text in pairs:
        assert text.split("</s></s>")[0][-1] in ".?]"


@pytest.mark.parametrize("name", NAMES)
def test_pretraining_taken_up_again_ends_bit_for_bit_where_it_would_have(
    name: str, tmp_path: Path, few: None
) -> None:
    recipe = small(name)
    loss = pretrain.pretrain(recipe, tmp_path / "unbroken", every=1e9)
    broken = pretrain.Pretraining(pretrain.start(recipe), tmp_path / "broken", every=0.0)
    for _ in zip(range(4), broken.train(), strict=False):
        pass
    assert not (tmp_path / "broken").exists() and broken.checkpoint.is_file()
    assert pretrain.pretrain(recipe, tmp_path / "broken", every=1e9) == loss
    assert not broken.checkpoint.exists()
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        one, other = (tmp_path / folder / file for folder in ("unbroken", "broken"))
        assert one.read_bytes() == other.read_bytes(), file


def test_a_checkpoint_of_another_recipe_is_an_error(tmp_path: Path) -> None:
    first = pretrain.Pretraining(pretrain.start(small("mini_gpt2")), tmp_path / "model", 1e9)
    first.save()
    other = pretrain.start(small("mini_gpt2", lr=1e-4))
    with pytest.raises(ValueError, match="another recipe"):
        pretrain.Pretraining(other, tmp_path / "model", 1e9)


def test_a_folder_that_exists_is_not_written_to(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exists already"):
        pretrain.pretrain(small("mini_gpt2"), tmp_path, every=1e9)


def test_a_model_that_falls_short_of_the_shipped_one_ends_the_command_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], few: None
) -> None:
    monkeypatch.setitem(pretrain.RECIPES, "mini_gpt2", small("mini_gpt2"))
    command = ["pretrain", "mini_gpt2", "--steps", "2", "--out", str(tmp_path / "model")]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match="the shipped model is not reproduced"):
        pretrain.main()
    assert "held-out loss" in capsys.readouterr().out
    monkeypatch.setattr(pretrain, "TOLERANCE", 100.0)
    monkeypatch.setattr("sys.argv", [*command[:-1], str(tmp_path / "again")])
    pretrain.main()


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    recipe = small("mini_gpt2", steps=10, warmup=0.2)
    rates = [pretrain.rate(step, recipe) for step in range(11)]
    assert rates == pytest.approx([0.5, 1.0, *[(10 - step) / 8 for step in range(2, 11)]])
