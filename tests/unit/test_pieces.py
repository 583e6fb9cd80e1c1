"""Models whose vocabulary is SentencePiece's alone, as DeBERTa-v3's repository has it."""

import sys
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceTrainer
from transformers import DebertaV2Config, DebertaV2Model

from experiments.models.loading import read_tokenizer
from experiments.models.pretrained import Pretrained

WORDS = ["a", "film", "that", "is", "good", "and", "a", "plot", "that", "is", "bad"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny random DeBERTa with spm.model and no tokenizer.json."""
    texts = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(tmp_path / "spm"), vocab_size=60,
        hard_vocab_limit=False, pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]",
        bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]", user_defined_symbols=["[MASK]"],
        minloglevel=2,
    )  # fmt: skip
    (tmp_path / "spm.vocab").unlink()
    config = DebertaV2Config(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    DebertaV2Model(config).save_pretrained(tmp_path)
    return tmp_path


def pretrained(path: Path) -> Pretrained:
    return Pretrained(
        name="pieces", path=str(path), package=None, revision=None, sha256=None, dropout=None,
        lr_scale=1.0, head=None, linears={},
    )  # fmt: skip


def test_a_vocabulary_of_pieces_is_read(folder: Path):
    tokenizer = read_tokenizer(folder, 64)
    ids = tokenizer("a good plot")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "a good plot"
    assert tokenizer.unk_token_id not in ids


def test_the_vocabulary_is_part_of_what_a_run_was_made_with(folder: Path):
    model = pretrained(folder)
    before = model.files_hash()
    with (folder / "spm.model").open("ab") as file:
        file.write(b" ")
    assert model.files_hash() != before
    # Beside files that come first it is not read, and does not count.
    (folder / "vocab.txt").write_text("a\n")
    other = model.files_hash()
    (folder / "spm.model").unlink()
    assert model.files_hash() == other


def test_a_damaged_vocabulary_is_refused(folder: Path):
    path = folder / "spm.model"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"spm\.model cannot be read \("):
        read_tokenizer(folder, 64)


def test_without_the_package_its_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ValueError, match=r"spm\.model is read by the package sentencepiece: pip"):
        read_tokenizer(folder, 64)
