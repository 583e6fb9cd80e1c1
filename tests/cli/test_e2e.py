"""E2E NLG: layout of source and target, the loss, the texts, and what is kept of them."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import peft
import pytest
import torch
import torch.nn.functional as F
from cases import train_steps
from conftest import Case
from runs import assert_equal_runs, killed_after
from transformers import AutoModelForCausalLM

from experiments import predict
from experiments.adapters import saved
from experiments.adapters.merged import write_merged
from experiments.adapters.peft_format import read_peft, write_peft
from experiments.data.sources import Local
from experiments.data.splits import Split
from experiments.data.tables import Table
from experiments.metrics.base import TokenMetric, find_metric, find_text_metrics
from experiments.metrics.challenge import read_outputs
from experiments.models.inference import Evaluated
from experiments.running.job import PreparedRun, prepare_run
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read
from experiments.settings.protocol import Clean, Paper
from experiments.tasks.continued import objects
from experiments.tasks.generation import slots
from variants.lora import LoRA

SHARED = Path(__file__).parents[3] / "shared" / "data" / "e2e"
SMALL = ("task=e2e", "data.test=12", "task.decoding.max_tokens=8", "task.metrics=[BLEU,ROUGE_L]")


@pytest.fixture
def run(tiny_run: Callable[..., Run]) -> Callable[..., Run]:
    return lambda variant="lora", *more: tiny_run(variant, *SMALL, *more, family="gpt2")


@pytest.fixture
def job(run: Callable[..., Run]) -> Callable[..., PreparedRun]:
    def make(variant: str = "lora", *more: str) -> PreparedRun:
        described = run(variant, *more)
        return prepare_run(described, described.task.load(described.data))

    return make


def test_slots_are_written_as_the_authors_of_lora_write_them() -> None:
    text = "name[The Copper], eatType[diner], priceRange[low], familyFriendly[no], area[docks]"
    written = "name : The Copper | Type : diner | price : low | family friendly : no | area : docks"
    assert slots(text) == written
    assert slots("name[Ann's, by the sea]") == "name : Ann's, by the sea"
    for wrong in ("a plain text", "name[open", "name[a] then more", ""):
        with pytest.raises(ValueError, match=r"task\.layout=raw"):
            slots(wrong)


def test_a_row_is_source_end_target_end_and_only_the_target_is_trained_on(
    job: Callable[..., PreparedRun],
) -> None:
    made = job()
    tokenizer, task = made.loaded.tokenizer, made.run.task
    source, target = made.data.train.texts[0]
    end = tokenizer.eos_token_id

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    batch = made.examples.batch(np.array([0, 1]))
    expected = [*ids(slots(source)), end, *ids(f" {target}"), end]
    assert batch.inputs["input_ids"][0, : len(expected)].tolist() == expected
    shown = len(ids(slots(source))) + 1
    labels = batch.labels[: len(expected)]
    assert (labels[:shown] == -100).all() and labels[shown:].tolist() == expected[shown:]
    rows = np.array([0, 1])
    assert made.examples.num_labels(rows) == int((batch.labels != -100).sum())
    raw = replace(task, layout="raw").encode(tokenizer, made.data.train, 64)
    assert raw.columns["input_ids"][: len(ids(source))].tolist() == ids(source)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_pytorch_with_smoothing_and_is_reported_without(
    job: Callable[..., PreparedRun], smoothing: float
) -> None:
    made = job("lora", f"task.label_smoothing={smoothing}")
    model = made.loaded.model.eval()
    batch = made.examples.batch(np.arange(5))
    with torch.no_grad():
        hidden = model.backbone(**batch.inputs).last_hidden_state
        logits = (hidden @ model.backbone.wte.weight.T)[:, :-1].flatten(0, 1)
        targets = batch.padded(batch.labels, -100)[:, 1:].flatten()
        loss, outputs = model.loss(batch)
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    plain = F.cross_entropy(logits, targets, reduction="none").view(5, -1).sum(dim=1)
    torch.testing.assert_close(outputs[:, 0], plain, rtol=1e-5, atol=1e-4)
    counts = (batch.padded(batch.labels, -100) != -100).sum(dim=1)
    assert outputs[:, 1].tolist() == counts.tolist()


def test_a_long_text_loses_its_end_and_is_counted(job: Callable[..., PreparedRun]) -> None:
    made = job()
    task, tokenizer, train = made.run.task, made.loaded.tokenizer, made.data.train
    whole = task.encode(tokenizer, train, 64)
    longest = int(whole.lengths.max())
    cut = task.encode(tokenizer, train, longest - 1)
    assert (whole.truncated, cut.truncated) == (0, int((whole.lengths == longest).sum()))
    with pytest.raises(ValueError, match=r"max_length=3 leaves no room"):
        task.encode(tokenizer, train, 3)


def test_texts_of_one_source_are_its_references(run: Callable[..., Run]) -> None:
    described = run()
    split = described.task.load(described.data).score["test"]
    assert len({source for (source,) in split.texts}) == len(split) < 12
    assert sum(map(len, split.labels)) == 12


def test_a_run_keeps_texts_scores_and_what_a_bootstrap_needs(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    result = execute(run(), tmp_path)
    assert list(result.scores["test"]) == ["BLEU", "ROUGE_L", "loss"]
    rows = result.predictions
    sources, texts = read_outputs(tmp_path / "outputs-test.tsv")
    assert sources == list(rows["source"])
    assert texts == [" ".join(text.split()) for text in rows["prediction"]]
    for metric in ("BLEU", "ROUGE_L"):
        counts = np.stack(rows[metric])
        assert find_text_metrics([metric])[0].value(counts) == result.scores["test"][metric]
    assert result.primary["interval"][0] <= result.primary["score"] <= result.primary["interval"][1]
    assert {"train_nll", "loss", "lr"} <= set(result.history)
    assert not (tmp_path / "head.safetensors").exists()


@pytest.mark.parametrize("variant", ["lora", "adalora", "full"])
@pytest.mark.parametrize("protocol", ["clean", "paper"])
def test_a_run_without_a_head_taken_up_again_ends_bit_for_bit_where_it_would_have(
    run: Callable[..., Run],
    tmp_path: Path,
    variant: str,
    protocol: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described = run(
        variant, "train.epochs=2", "train.batch_size=16", "record.log_every=3",
        "record.checkpoint_every=0", f"protocol={protocol}",
    )  # fmt: skip
    unbroken = execute(described, tmp_path / "unbroken")
    for stop in (2, 4, 7):  # before the first checkpoint, behind one, in a later epoch
        with killed_after(monkeypatch, stop):
            execute(described, tmp_path / "broken")
    resumed = execute(described, tmp_path / "broken")
    assert resumed.cost["restarts"] == 2
    assert resumed.scores == unbroken.scores
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")
    texts = [(tmp_path / name / "outputs-test.tsv").read_bytes() for name in ("unbroken", "broken")]
    assert texts[0] == texts[1]


def test_ten_texts_are_shown(run: Callable[..., Run]) -> None:
    task = run().task
    split = Split(np.arange(30), [(f"s{i}",) for i in range(30)], objects([["r"]] * 30), "", "")
    item = Evaluated(split, objects([f"text {i}" for i in range(30)]), 0)
    shown = task.samples(item)
    assert len(shown) == 10 and shown == task.samples(item)
    assert all(
        (given, found, "r") == (given, f"text {given[1:]}", "r") for given, found, _ in shown
    )


def test_a_trained_run_says_what_it_is_asked(
    run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = execute(run("dora"), tmp_path / "run")
    rows = result.predictions[:3]
    rows[["source"]].rename(columns={"source": "mr"}).to_csv(tmp_path / "asked.csv", index=False)
    command = ["predict", str(tmp_path / "run"), "--file", str(tmp_path / "asked.csv")]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(tmp_path / "told.csv")])
    predict.main()
    told = pd.read_csv(tmp_path / "told.csv", keep_default_na=False)
    assert list(told.columns) == ["mr", "prediction"]
    assert list(told["prediction"]) == list(rows["prediction"])
    monkeypatch.setattr("sys.argv", ["predict", str(tmp_path / "run"), "--text", "a fine film"])
    with pytest.raises(SystemExit, match="not a list of slots"):
        predict.main()


@pytest.mark.parametrize("name", ["webnlg", "dart", "e2e_formatted"])
def test_lines_of_json_as_loras_authors_write_them_are_read(name: str, tmp_path: Path) -> None:
    rows = [
        {"context": "Ann : helped : Ben", "completion": "Ann helped Ben .", "cate": True},
        {"context": "Ann : helped : Ben", "completion": "Ben was helped by Ann .", "cate": True},
        {"context": "Eric : sold : lamp", "completion": "Eric sold the lamp .", "cate": False},
    ]
    for split in ("train", "valid", "test"):
        lines = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / f"{split}_formatted.jsonl").write_text(lines + "\n")
    described = read(compose_config(f"task={name}", "data=local", f"data.dir={tmp_path}"))
    found = described.task.load(described.data)
    assert len(found.train) == 3 and len(found.score["test"]) == 2
    assert found.score["test"].texts[0] == ("Ann : helped : Ben",)
    assert list(found.score["test"].labels[0]) == ["Ann helped Ben .", "Ben was helped by Ann ."]
    job = prepare_run(described, found)
    prompt = described.task.encode_prompt(job.loaded.tokenizer, "Ann : helped : Ben")
    assert job.loaded.tokenizer.decode(prompt).strip() == "Ann : helped : Ben<|endoftext|>"


def test_published_settings_are_those_of_the_paper_and_of_the_code() -> None:
    paper, code = (
        read(compose_config(f"experiment=lora-e2e-gpt2_medium{name}", "data.dir=FOLDER"))
        for name in ("", "-code")
    )
    for described in (paper, code):
        # Hu et al. 2021, Table 11.
        assert described.variant == LoRA(
            lr=2e-4, rank=4, alpha=32.0, dropout=0.1, rslora=False, targets=["q", "v"]
        )
        train, decoding = described.train, described.task.decoding
        assert (train.epochs, train.batch_size, train.weight_decay) == (5, 8, 0.01)
        assert round(train.warmup * 5 * math.ceil(42061 / 8)) == 500
        assert described.task.label_smoothing == 0.1 and described.model.dropout == 0.0
        assert (decoding.beams, decoding.no_repeat_ngram, decoding.max_tokens) == (10, 4, 64)
    assert (paper.task.decoding.length_penalty, paper.task.decoding.end) == (0.9, [])
    assert (code.task.decoding.length_penalty, code.task.decoding.end) == (0.8, ["\n\n"])
    assert (paper.paper, code.paper) == ("lora_table11", "lora_code")
    assert isinstance(paper.protocol, Paper) and isinstance(code.protocol, Clean)
    assert paper.task.name == code.task.name == "e2e_formatted"  # what the ledger compares


def test_a_source_that_is_no_list_of_slots_is_named_with_its_row(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    rows = ["mr,ref", '"name[The Copper], food[Thai]",Good.', '"name[The Copper, food",Bad.']
    for name in ("trainset", "devset", "testset_w_refs"):
        (tmp_path / f"{name}.csv").write_text("\n".join(rows), encoding="utf-8")
    task = run().task
    with pytest.raises(ValueError, match=r"trainset\.csv, line 3: mr: 'name\[The Copper, food' is"):
        task.load(Local(dir=str(tmp_path)))
    with pytest.raises(ValueError, match=r"--text, row 1: mr: 'a word' is not a list of slots"):
        task.texts(Table("--text", {"mr": ["a word"]}, [1], "", unit="row"))


def test_a_run_in_which_nothing_would_train_is_refused(run: Callable[..., Run]) -> None:
    described = run("head_only")
    with pytest.raises(ValueError, match=r"^Nothing trains in head_only/mini/e2e/.*no head for"):
        prepare_run(described, described.task.load(described.data))


def test_a_model_that_predicts_no_tokens_is_refused(tiny_run: Callable[..., Run]) -> None:
    described = tiny_run("lora", *SMALL, family="roberta")
    with pytest.raises(ValueError, match="is no language model; choose one, such as"):
        prepare_run(described, described.task.load(described.data))


def test_parts_of_a_batch_count_by_their_tokens(job: Callable[..., PreparedRun]) -> None:
    made = job("full")
    whole = made.examples.batch(np.arange(8))
    parts = [made.examples.batch(np.arange(8)[rows]) for rows in (slice(0, 3), slice(3, 8))]
    labels = [made.examples.num_labels(part.rows) for part in (*parts, whole)]
    assert sum(labels[:2]) == labels[2]
    model = made.loaded.model.eval()
    with torch.no_grad():
        sums = sum(model.loss(part)[0] for part in parts)
        torch.testing.assert_close(sums, model.loss(whole)[0], rtol=1e-5, atol=1e-4)


@torch.no_grad()
def predicted(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    real = inputs["attention_mask"].bool()
    return model(**inputs).logits[real]


def test_a_trained_language_model_is_merged_exported_and_read_back(
    job: Callable[..., PreparedRun], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    made = job()
    model, batch = made.loaded.model, made.examples.batch(np.arange(4))
    train_steps(Case(made.run, model, batch), steps=5)
    inputs = dict(batch.inputs)
    with torch.no_grad():
        hidden = model.backbone(**inputs).last_hidden_state
        expected = (hidden @ model.backbone.wte.weight.T)[inputs["attention_mask"].bool()]
    close = {"rtol": 1e-4, "atol": 1e-4}
    saved.write(saved.of_run(made.run, made.loaded, made.run.model.weights_hash()), tmp_path / "a")
    adapter = saved.read_adapter(tmp_path / "a")

    write_merged(adapter, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(predicted(merged, inputs), expected, **close)

    write_peft(adapter, tmp_path / "peft")
    base = AutoModelForCausalLM.from_pretrained(tiny("gpt2"))
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    torch.testing.assert_close(predicted(theirs, inputs), expected, **close)

    back = saved.load(read_peft(tmp_path / "peft", made.run.model)).model
    with torch.no_grad():
        torch.testing.assert_close(back(batch), model(batch), **close)


def test_the_official_files_have_their_published_sizes(run: Callable[..., Run]) -> None:
    if not SHARED.is_dir():
        pytest.skip("the official data are not beside the project")
    task = replace(run().task, score_on=["dev", "test"])
    data = task.load(Local(dir=str(SHARED)))
    assert len(data.train) == 42_061
    found = {name: (len(s), sum(map(len, s.labels))) for name, s in data.score.items()}
    assert found == {"dev": (547, 4_672), "test": (630, 4_693)}
    assert all(" : " in slots(source) for split in data.score.values() for (source,) in split.texts)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('task.decoding.end=["two words here"]', "must be one token"),
        ("task.decoding.max_tokens=138", "the model has positions for 2"),
    ],
)
def test_what_would_end_the_evaluation_ends_the_run_before_the_training(
    run: Callable[..., Run], tmp_path: Path, setting: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        execute(run("lora", setting), tmp_path)
    assert not (tmp_path / "history.jsonl").exists()


def test_the_probability_of_tokens_needs_no_text(
    run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(*_: object) -> None:
        raise AssertionError("a text was generated")

    monkeypatch.setattr("experiments.models.generation.generate", generate)
    result = execute(run("lora", "task.metrics=[token_probability]"), tmp_path)
    scores = result.scores["test"]
    assert scores["token_probability"] == pytest.approx(math.exp(-scores["loss"]), rel=1e-6)
    low, high = result.primary["interval"]
    assert 0 < low < result.primary["score"] == scores["token_probability"] < high < 1
    counts = np.stack(result.predictions["token_probability"])
    metric = find_metric("token_probability")
    assert isinstance(metric, TokenMetric)
    assert metric.value(counts) == scores["token_probability"]
    task = result.config["task"]
    tokens = [len(text.split()) for texts in result.predictions["label"] for text in texts]
    assert counts[:, 1].sum() >= sum(tokens) and task["metrics"] == ["token_probability"]
    assert "prediction" not in result.predictions
    assert not (tmp_path / "outputs-test.tsv").exists()


def test_metrics_of_texts_and_of_tokens_do_not_mix(run: Callable[..., Run]) -> None:
    with pytest.raises(ValueError, match=r"nothing is generated for 'token_probability'"):
        run("lora", "task.metrics=[BLEU,token_probability]")
    with pytest.raises(ValueError, match=r"'accuracy' is not known"):
        run("lora", "task.metrics=[accuracy]")
