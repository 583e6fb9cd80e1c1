"""Tasks told by templates: what is read, trained on, found in what is generated, and refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from experiments.data.batches import IGNORED
from experiments.data.tables import Table
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read
from experiments.tasks.prompted import PromptedTask

TASKS = ("gsm8k", "commonsense", "instruct", "summary")
ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {"question": f"Ann had {n} and got 1 more?", "answer": f"{n} + 1 = {n + 1}\n#### 1,{n}00"}
        for n in range(2, 10)
    ],
    "commonsense": [
        {
            "instruction": f"Is {n} even? Answer true or false.",
            "output": f"the correct answer is {'true' if n % 2 == 0 else 'false'}",
        }
        for n in range(8)
    ],
    "instruct": [{"prompt": f"Say {n}.", "answer": f"It is {n}."} for n in range(8)],
    "summary": [{"document": f"Rain fell {n} times.", "summary": f"Rain {n}."} for n in range(8)],
}
FEW = (
    "model=mini_gpt2", "variant=lora", "variant.rank=2", "data=local", "train=nlg",
    "train.max_length=96", "train.epochs=1", "train.batch_size=4", "compute.device=cpu",
    "tracker.mode=disabled", "task.decoding.max_tokens=8",
)  # fmt: skip


@pytest.fixture
def task_run(tmp_path: Path) -> Callable[..., Run]:
    """A run of a task on made rows."""

    def make(name: str, *overrides: str, rows: list[dict[str, Any]] | None = None) -> Run:
        run = read(compose_config(f"task={name}", *FEW, f"data.dir={tmp_path}", *overrides))
        for split, file in run.task.files.items():
            lines = ROWS[name] if rows is None or split == "train" else rows
            as_list = file.endswith(".json")
            text = json.dumps(lines) if as_list else "\n".join(map(json.dumps, lines))
            (tmp_path / file).write_text(text)
        return run

    return make


def task_of(run: Run) -> PromptedTask:
    assert isinstance(run.task, PromptedTask)
    return run.task


@pytest.mark.parametrize("name", TASKS)
def test_a_task_told_by_its_yaml_is_trained_and_scored(
    task_run: Callable[..., Run], tmp_path: Path, name: str
) -> None:
    extra = ("task.chat=false",) if name == "instruct" else ()
    result = execute(task_run(name, *extra, "protocol=paper"), tmp_path / "run")
    assert result.status == "complete"
    assert result.primary["metric"] == result.config["task"]["metrics"][0]
    assert set(result.config["task"]["metrics"]) | {"loss"} == result.scores["test"].keys()
    assert len(result.predictions) == 8
    assert 0 <= result.primary["score"] <= 1


def test_what_is_trained_on_is_the_target_and_its_end(task_run: Callable[..., Run]) -> None:
    run = task_run("gsm8k")
    task, tokenizer = task_of(run), run.model.load(0, torch.Generator(), "fp32").tokenizer
    split = task.load(run.data).train
    batch = task.encode(tokenizer, split, 96).batch(np.array([1]))
    kept = batch.labels[batch.labels != IGNORED].tolist()
    assert kept[-1] == tokenizer.eos_token_id
    row = ROWS["gsm8k"][1]
    assert tokenizer.decode(kept[:-1]).strip() == row["answer"]
    shown = batch.columns["input_ids"][batch.labels == IGNORED].tolist()
    assert tokenizer.decode(shown).strip() == f"Question: {row['question']}\nAnswer:"


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("gsm8k", " 2 + 3 = 5\n#### 1,234.", "1234"),
        ("gsm8k", " so $5\n#### $-7", ""),  # a sign before the money is none of a number
        ("gsm8k", "#### -7.5\nQuestion: and now? #### 9", "-7.5"),
        ("gsm8k", " no number", ""),
        ("commonsense", " the correct answer is solution2, not solution1", "solution2"),
        ("commonsense", " truely", ""),
        ("summary", " One.\nTwo.", "One."),
        ("instruct", " as it is ", "as it is"),
    ],
)
def test_the_answer_is_what_the_pattern_finds_first(
    task_run: Callable[..., Run], name: str, text: str, answer: str
) -> None:
    assert task_of(task_run(name)).find_answer(text) == answer


def test_a_right_answer_counts_whatever_stands_around_it(task_run: Callable[..., Run]) -> None:
    run = task_run("gsm8k")
    split = task_of(run).load(run.data).score["test"]
    right = [f" long thoughts\n#### 1{n}00" for n in range(2, 10)]
    outputs = np.array([*right[:6], "#### 0", "none"], dtype=object)
    assert run.task.score(split.labels, outputs) == {"exact_match": 0.75}
    low, high = run.task.interval(split.labels, outputs, np.random.default_rng(0))
    assert low < 0.75 < high


def test_the_likeliest_choice_is_the_answer(task_run: Callable[..., Run]) -> None:
    rows = [{"question": f"Is it {n}?", "a": "no", "b": "yes", "answer": "yes"} for n in range(5)]
    choices = ("task.choices=['{a}','{b}']", "task.answer=null", "task.target='{answer}'")
    run = task_run("gsm8k", *choices, rows=rows)
    task, loaded = task_of(run), run.model.load(0, torch.Generator(), "fp32")
    split = task.held_out(task.read(run.data, "test"))
    found = task.evaluate(loaded, split, run.train)
    for (prompt, target, *own), output in zip(split.texts, found.outputs, strict=True):
        losses = []
        for choice in own:
            encoded = task.encode_pairs(loaded.tokenizer, [(prompt, choice)], 96)
            with torch.no_grad():
                losses.append(float(loaded.model(encoded.batch(np.array([0])))[0, 0]))
        assert output == own[int(np.argmin(losses))] and target == "yes"
    assert np.isfinite(found.losses["loss"])


CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_chat_template_frames_question_and_reply(task_run: Callable[..., Run]) -> None:
    run = task_run("instruct")
    tokenizer = AutoTokenizer.from_pretrained(run.model.folder())
    with pytest.raises(ValueError, match=r"no chat template; choose task\.chat=false"):
        task_of(run).encode_prompt(tokenizer, "Say 1.")
    tokenizer.chat_template = CHAT
    batch = (
        task_of(run).encode(tokenizer, task_of(run).load(run.data).train, 96).batch(np.array([1]))
    )
    kept = batch.labels[batch.labels != IGNORED].tolist()
    assert tokenizer.decode(kept) == "It is 1.<|endoftext|>"
    shown = batch.columns["input_ids"][batch.labels == IGNORED].tolist()
    assert tokenizer.decode(shown).split() == ["<user>Say", "1.<|endoftext|>", "<assistant>"]
    tokenizer.chat_template = CHAT.replace("<{{", "<{{ messages | length }} {{")
    with pytest.raises(ValueError, match="shows a question otherwise once it is answered"):
        task_of(run).encode(tokenizer, task_of(run).load(run.data).train, 96)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "no column"}, "must name a column"),
        ({"prompt": "{question"}, "is no template"),
        ({"prompt": "{0}"}, "names columns"),
        ({"answer": "(["}, r"answer '\(\[' is no regular expression"),
        ({"choices": ["{a}"]}, "two or more, got 1"),
        ({"metrics": []}, "at least one"),
        ({"metrics": ["accuracy"]}, "'accuracy' is not known"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    task_run: Callable[..., Run], change: dict[str, Any], message: str
) -> None:
    task = task_of(task_run("gsm8k"))
    with pytest.raises(ValueError, match=message):
        replace(task, **change)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "How many?", "answer": "no number"}, "line 2.*no answer in ' no number'"),
        ({"question": None, "answer": "#### 2"}, "line 2.*question is empty"),
        ({"answer": "#### 2"}, "question"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    task_run: Callable[..., Run], row: dict[str, Any], message: str
) -> None:
    run = task_run("gsm8k", rows=[ROWS["gsm8k"][0], row])
    with pytest.raises(ValueError, match=f"test.jsonl.*{message}|{message}.*test.jsonl"):
        run.task.load(run.data)


def test_a_trained_model_chooses_for_those_who_ask_it_as_it_does_when_it_is_scored(
    task_run: Callable[..., Run],
) -> None:
    rows = [{"question": f"Is it {n}?", "a": f"no {n}", "b": "yes", "answer": "yes"} for n in "12"]
    choices = ("task.choices=['{a}','{b}']", "task.answer=null", "task.target='{answer}'")
    run = task_run("gsm8k", *choices, rows=rows)
    task, loaded = task_of(run), run.model.load(0, torch.Generator(), "fp32")
    scored = task.evaluate(loaded, task.held_out(task.read(run.data, "test")), run.train).outputs
    assert task.given == ["question", "a", "b"]
    asked = Table("asked", {name: [row[name] for row in rows] for name in task.given}, [1, 2], "")
    found = task.answers(loaded, task.texts(asked), run.train)
    assert list(found["prediction"]) == list(scored)


def test_classes_are_told_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "SST-2"
    folder.mkdir()
    for name in ("train", "dev"):
        lines = [f"a film {n}\t{n % 2}" for n in range(8)]
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines, ""]))
    few = [text for text in FEW if not text.startswith("task.")]
    run = read(compose_config(*few, "task=sst2_words", f"data.dir={tmp_path}"))
    read_dev = task_of(run).read(run.data, "dev")
    words = ["negative", "positive"]
    assert read_dev.texts[1] == ("sst2 sentence: a film 1", "positive", *words)
    result = execute(run, tmp_path / "out")
    assert set(result.predictions["prediction"]) <= set(words)
    numbers = Table("x", {"label": [1, 0], "sentence": ["a", "b"]}, [1, 2], "")
    assert task_of(run).reworded(numbers).columns["label"] == ["positive", "negative"]
    numbers.columns["label"][1] = 2
    with pytest.raises(ValueError, match=r"x, line 2: task\.words\.label has no word for '2'\. It"):
        task_of(run).reworded(numbers)


def test_the_probability_of_the_right_choice_needs_no_other(task_run: Callable[..., Run]) -> None:
    rows = [{"question": f"Is it {n}?", "a": "no", "b": "yes", "answer": "yes"} for n in range(5)]
    choices = ("task.choices=['{a}','{b}']", "task.answer=null", "task.target='{answer}'")
    run = task_run("gsm8k", *choices, "task.metrics=[token_probability]", rows=rows)
    task, loaded = task_of(run), run.model.load(0, torch.Generator(), "fp32")
    split = task.held_out(task.read(run.data, "test"))
    found = task.evaluate(loaded, split, run.train)
    assert found.outputs.shape == (len(split), 2)
    alone = [task.losses(loaded, [pair], run.train)[0][0] for pair in task.pairs(split)]
    np.testing.assert_allclose(found.outputs * [-1, 1], alone, rtol=1e-5)
    assert task.score(split.labels, found.outputs)["token_probability"] == pytest.approx(
        np.exp(-found.losses["loss"])
    )
