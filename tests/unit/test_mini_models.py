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

from experiments.mini import objectives, pretrain
from experiments.mini.muon import Muon, orthogonal
from experiments.mini.objectives import Objective, Recipe
from experiments.mini.passages import TELLING, passages
from experiments.settings.compose import compose_config
from experiments.settings.config import read
from experiments.settings.sections import build

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
    model = read(compose_config("model=mini_roberta", f"model.path={tmp_path}")).model
    assert model.folder() == tmp_path
    assert read(compose_config("model=mini_roberta")).model.folder() == SHIPPED["mini_roberta"]


@pytest.mark.parametrize("name", NAMES)
def test_pretraining_taught_something(name: str, few: None) -> None:
    judged = pretrain.load_shipped(name)
    learned = pretrain.measure_held_out_loss(judged)
    assert learned == pretrain.measure_held_out_loss(judged)
    torch.manual_seed(0)
    for parameter in judged.model.parameters():
        parameter.data.normal_(0.0, 0.02)
    assert learned < pretrain.measure_held_out_loss(judged) / 3


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
        losses, _ = objective.judge(rows, torch.Generator().manual_seed(1))
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


def test_what_is_chosen_is_masked_replaced_by_a_rival_or_left(
    started: dict[str, Objective],
) -> None:
    objective = started["mini_roberta"]
    assert isinstance(objective, objectives.Masked)
    recipe, generator = objective.recipe, torch.Generator().manual_seed(0)
    ids = torch.arange(len(objective.tokenizer)).repeat(200, 1)
    chosen = torch.rand(ids.shape, generator=generator) < 0.5
    shown = objective.corrupted(ids, chosen, generator)
    assert torch.equal(shown[~chosen], ids[~chosen])
    masked = shown == objectives.MASK
    replaced = (shown != ids) & ~masked
    assert objective.rivals[ids[replaced], shown[replaced]].all()
    has_rivals = chosen & objective.rivals.any(dim=1)[ids]
    assert float(masked[chosen].float().mean()) == pytest.approx(0.9 - recipe.wrong, abs=0.02)
    assert float(replaced[has_rivals].float().mean()) == pytest.approx(recipe.wrong, abs=0.02)


def test_rivals_change_places_in_a_share_of_the_passages(started: dict[str, Objective]) -> None:
    objective = started["mini_roberta"]
    assert isinstance(objective, objectives.Masked)
    (row,) = objective.encode([("Ann helped Adam.", "Adam was helped by Ann near the bridge.")])
    ids, generator = torch.tensor([row] * 2000), torch.Generator().manual_seed(0)
    where = torch.arange(len(row)) > row.index(objective.known["."])
    shown = objective.swapped(ids, where.expand_as(ids), generator)
    changed = shown != ids
    assert set(changed.sum(dim=1).tolist()) == {0, 2}
    assert float(changed.any(dim=1).float().mean()) == pytest.approx(
        objective.recipe.swapped, abs=0.03
    )
    one = shown[changed.any(dim=1)][0].tolist()
    text = objective.tokenizer.decode(one, skip_special_tokens=True)
    assert text.split(". ")[1] == "Ann was helped by Adam near the bridge."
    assert torch.equal(objective.swapped(ids, torch.zeros_like(ids).bool(), generator), ids)


def test_a_wrong_word_is_to_be_found_and_a_masked_one_is_not(
    started: dict[str, Objective],
) -> None:
    objective = started["mini_roberta"]
    assert isinstance(objective, objectives.Masked)
    rows, sure = objective.batch(1), 50.0
    with torch.no_grad():
        objective.detector.bias.fill_(-sure)
        _, verdicts = objective.judge(rows, torch.Generator().manual_seed(2))
        objective.detector.bias.zero_()
    # Who calls no word wrong loses only where one is.
    assert set(verdicts.round().tolist()) == {0.0, sure}
    assert 0.02 < float((verdicts > 1).float().mean()) < 0.3


# The optimizer of matrices


def test_an_update_is_brought_close_to_an_orthogonal_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    updates = torch.randn(3, 24, 64, generator=generator)
    for found in (orthogonal(updates), orthogonal(updates.mT)):
        values = torch.linalg.svdvals(found)
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    left, _, right = torch.linalg.svd(updates, full_matrices=False)
    assert float((orthogonal(updates) * (left @ right)).sum(dim=(1, 2)).min()) > 0.9 * 24 * 0.9


def test_muon_steps_as_torch_does_save_for_its_rounding() -> None:
    torch.manual_seed(0)
    start = [torch.randn(16, 40), torch.randn(40, 16), torch.randn(16, 40)]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}
    one = Muon(ours, **settings)
    other = torch.optim.Muon(theirs, **settings, adjust_lr_fn="original")
    for _ in range(3):
        for mine, yours in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            yours.grad = mine.grad.clone()
        one.step()
        other.step()
    for mine, yours, begun in zip(ours, theirs, start, strict=True):
        moved, expected = (mine - begun).detach(), (yours - begun).detach()
        # torch iterates in bfloat16.
        assert float((moved - expected).norm() / expected.norm()) < 0.05


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
