"""Forgetting: the loss of general text is transformers' own, and a run measures it twice."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures import LLAMA
from conftest import Answer, vocabulary
from passes import compute_norms_exactly
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from analysis import load
from analysis.report.material import gather
from analysis.report.perplexities import forgetting as table_of
from experiments.data.splits import Limits
from experiments.models.forgetting import Forgetting
from experiments.models.general_text import encode_texts, mean_loss, prepare
from experiments.models.pretrained import Pretrained
from experiments.results.result import read_result
from experiments.running.runner import execute
from experiments.settings.config import Run
from experiments.stored.result import perplexities

KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 140},
    "llama, tied": {"model_type": "llama", **LLAMA, "tie_word_embeddings": True},
    "llama, untied": {"model_type": "llama", **LLAMA, "tie_word_embeddings": False},
    "gpt_neox": {
        "model_type": "gpt_neox", **LLAMA, "tie_word_embeddings": False,
    },
}  # fmt: skip


def sentences(count: int) -> list[str]:
    """Texts of several lengths in the words that the tiny tokenizers know."""
    words, generator = vocabulary(), np.random.default_rng(3)
    lengths = generator.integers(1, 15, count)
    return [" ".join(generator.choice(words, size)) for size in lengths]


@pytest.fixture
def general(tmp_path: Path) -> Path:
    path = tmp_path / "general.txt"
    path.write_text("\n".join([*sentences(20), "", ""]), encoding="utf-8")
    return path


def of_file(path: Path | str, column: str | None = None, rows: int = 200) -> Forgetting:
    return Forgetting(file=str(path), column=column, rows=rows)


@pytest.fixture
def saved(tiny: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Pretrained]:
    """A tiny random model that predicts words."""

    def save(kind: str) -> Pretrained:
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(tiny("gpt2"))
        ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
        config = AutoConfig.for_model(**KINDS[kind] | ids | {"vocab_size": len(tokenizer)})
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return Pretrained(
            name="tiny", path=str(tmp_path / "model"), package=None, revision=None, sha256=None,
            dropout=None, lr_scale=1.0, linears={},
        )  # fmt: skip

    return save


@torch.no_grad()
def their_loss(path: str, texts: list[str], max_length: int) -> tuple[float, int]:
    """The mean loss per token by transformers alone, text by text and in float64."""
    model = AutoModelForCausalLM.from_pretrained(path).double().eval()
    compute_norms_exactly(model)
    tokenizer = AutoTokenizer.from_pretrained(path)
    total, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"][:max_length]])
        if ids.shape[1] > 1:
            found = model(ids, labels=ids)  # its own loss is rounded to float32
            loss = F.cross_entropy(found.logits[0, :-1], ids[0, 1:])
            assert float(loss) == pytest.approx(float(found.loss), rel=1e-5)
            total += float(loss) * (ids.shape[1] - 1)
            tokens += ids.shape[1] - 1
    return total / tokens, tokens


@pytest.mark.parametrize("outputs", [0, 2], ids=["language model", "with a head"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_transformers(
    saved: Callable[[str], Pretrained], tiny_run: Callable[..., Run], general: Path, kind: str,
    outputs: int,
) -> None:  # fmt: skip
    model, limits = saved(kind), Limits(12, 64)
    loaded = model.load(outputs, torch.Generator().manual_seed(0), "fp32")
    loaded.model.double()
    if outputs and not loaded.model.backbone.config.tie_word_embeddings:
        with pytest.raises(ValueError, match="tiny over words is not its embedding table"):
            prepare(of_file(general), loaded, "tiny", limits)
        return
    expected, tokens = their_loss(model.path, sentences(20), 12)
    found = prepare(of_file(general), loaded, "tiny", limits)
    assert found.texts.num_labels(np.arange(len(found.texts))) == tokens
    assert found.texts.truncated > 0
    assert found.loss_before == pytest.approx(expected, rel=1e-12)


RUNS = {
    "a language model": ("full", "gpt2", "task=e2e"),
    "a head on a decoder": ("full", "llama", "task=sst2"),
    "adapters, in bfloat16": ("lora", "llama", "train.precision=bf16"),
    "the head alone": ("head_only", "llama", "task=sst2"),
    "by transformers": ("lora", "llama", "compute.engine=transformers"),
}


def with_text(run: Run, path: Path) -> Run:
    return replace(run, forgetting=of_file(path), train=replace(run.train, epochs=1.0))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_measures_it_before_and_after(
    tiny_run: Callable[..., Run], general: Path, tmp_path: Path, name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    variant, family, *overrides = RUNS[name]
    run = with_text(tiny_run(variant, *overrides, family=family), general)
    result = execute(run, tmp_path / "run")
    found = result.forgetting
    assert found is not None and found["texts"] <= 20 and found["tokens"] > 50
    same = found["loss_before"] == found["loss_after"]
    assert same == (variant == "head_only")
    base = run.model.load(run.task.num_outputs, torch.Generator(), "fp32")
    texts = encode_texts(base, of_file(general).read(), run.train.max_length)
    close = {"rel": 1e-2 if "bf16" in str(overrides) else 1e-6}
    assert found["loss_before"] == pytest.approx(mean_loss(base, texts, 64), **close)
    before, after = perplexities(found)  # type: ignore[misc]
    said = f"perplexity {before:.2f} before, {after:.2f} after, on {found['tokens']} tokens"
    assert said in capsys.readouterr().out
    assert read_result(tmp_path / "run") == result
    assert "forgetting" in result.fingerprint
    execute(run, tmp_path / "run")
    assert "Already done" in capsys.readouterr().out


def test_measuring_changes_nothing_of_the_run(
    tiny_run: Callable[..., Run], general: Path, tmp_path: Path
) -> None:
    run = tiny_run("lora", family="gpt2")
    plain = execute(replace(run, train=replace(run.train, epochs=1.0)), tmp_path / "plain")
    measured = execute(with_text(run, general), tmp_path / "measured")
    assert plain.forgetting is None and "forgetting" not in plain.fingerprint
    assert plain.files == measured.files and plain.scores == measured.scores


def test_another_text_in_the_file_is_another_run(
    tiny_run: Callable[..., Run], general: Path, tmp_path: Path
) -> None:
    run = with_text(tiny_run("lora", family="gpt2"), general)
    execute(run, tmp_path / "run")
    general.write_text("a b c\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"another run .the forgetting differ"):
        execute(run, tmp_path / "run")


def test_tables_show_it_where_it_was_measured(
    tiny_run: Callable[..., Run], general: Path, tmp_path: Path
) -> None:
    run = tiny_run("lora", family="gpt2")
    execute(replace(run, train=replace(run.train, epochs=1.0)), tmp_path / "plain")
    shown = load.shown(load.load(tmp_path))
    assert "perplexity" not in [column.header for column in shown.columns]
    result = execute(with_text(run, general), tmp_path / "measured")
    runs = load.load(tmp_path)
    (after,) = runs["perplexity_after"].dropna()
    assert after == perplexities(result.forgetting)[1]  # type: ignore[index]
    column = load.shown(runs).columns[-1]
    assert column.header == "perplexity" and sorted(map(str, column.cells))[-1] == "not measured"
    material = gather(tmp_path)
    assert len(set(material.runs["method"])) == 1, "a measured run is of the same method"
    (row,) = table_of(material.tested).frame().to_dict("records")
    assert row["after"] == f"{after:,.2f}" and row["method"] == "lora"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json"])
def test_a_column_of_a_table_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"general.{suffix}"
    rows = [{"id": str(i), "text": text} for i, text in enumerate(["a b", " ", "c d", "e f"])]
    mark = {"csv": ",", "tsv": "\t"}.get(suffix)
    if mark:
        lines = [mark.join(row.values()) for row in rows]
        path.write_text("\n".join([mark.join(rows[0]), *lines]), encoding="utf-8")
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    assert of_file(path, "text", rows=2).read().texts == [("a b",), ("c d",)]


def written(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def test_a_wrong_file_is_one_sentence(tmp_path: Path) -> None:
    table = written(tmp_path, "t.csv", "id,text\n1,a b\n")
    for settings, said in (
        (of_file(tmp_path / "none.txt"), "forgetting.file: there is no file .*none.txt"),
        (of_file(written(tmp_path, "blank.txt", "\n \n")), "blank.txt holds no text"),
        (of_file(table), "forgetting.column must name the column of .*t.csv"),
        (of_file(table, "txt"), "no column 'txt'. Did you mean 'text'"),
        (of_file(written(tmp_path, "p.txt", "a b"), "text"), "column is 'text', and .* no columns"),
        (of_file(written(tmp_path, "t.json", '[{"text": 3}]'), "text"), "row 1 must hold a text"),
        (of_file(written(tmp_path, "t.doc", "a b"), "text"), "unknown suffix '.doc'"),
    ):
        with pytest.raises(ValueError, match=said):
            settings.read()
    with pytest.raises(ValueError, match=r"forgetting.rows must be at least 1, got 0"):
        of_file(table, rows=0)


def test_one_token_leaves_nothing_to_predict(tiny_run: Callable[..., Run], tmp_path: Path) -> None:
    run = with_text(tiny_run("lora", family="gpt2"), written(tmp_path, "one.txt", "a\nb\n"))
    with pytest.raises(ValueError, match=r"no text in .*one.txt has two tokens"):
        execute(run, tmp_path / "run")


def test_an_encoder_is_refused_before_training(
    tiny_run: Callable[..., Run], general: Path, tmp_path: Path
) -> None:
    run = with_text(tiny_run("lora"), general)
    with pytest.raises(ValueError, match="needs a model that predicts words, and roberta_base is"):
        execute(run, tmp_path / "run")
    assert not (tmp_path / "run/history.jsonl").exists()


def test_the_command_line_takes_it(
    shell: Callable[..., Answer], tiny: Callable[[str], Path], general: Path
) -> None:
    model = ("model=gpt2", f"model.path={tiny('gpt2')}", "task=sst2", "variant=lora")
    few = ("data.train=32", "data.dev=16", "train.epochs=1", "tracker.mode=disabled")
    plain = shell(*model, *few)
    answer = shell(*model, *few, f"forgetting.file={general}", "forgetting.rows=5")
    assert "before" in answer.out and "on " in answer.out and answer.code == 0
    folders = {out.out.rpartition("-> ")[2].split()[0] for out in (plain, answer)}
    assert len(folders) == 2
    content = json.loads(
        (Path(answer.out.rpartition("-> ")[2].split()[0]) / "result.json").read_text()
    )
    assert content["forgetting"]["texts"] <= 5
    wrong = shell(*model, *few, "forgetting.file=nowhere.txt")
    assert wrong.code and "there is no file nowhere.txt" in wrong.said
