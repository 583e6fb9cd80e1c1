"""The built-in tasks: labels that a reader finds again, splits apart, a known ceiling."""

import json
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import mini_oracle
import numpy as np
import pytest
from omegaconf import OmegaConf

from experiments.metrics.base import find_label_metric
from experiments.mini import lexicon, passages, tasks
from experiments.mini.grammar import Draw
from experiments.mini.rivals import rivals

ROOT = Path(__file__).parents[2]
LABELLED = list(tasks.LABELS)
SPLITS = [(task, split) for task in LABELLED for split in tasks.SPLITS[task]]
# Classes of words that a task tests, and that its splits must not share.
KINDS = [form for kind in lexicon.LIVING + lexicon.MADE for noun in kind for form in noun]
EVENTS = [
    [form for pair in lexicon.DEEDS + lexicon.WORKS for verb in pair for form in verb],
    [*lexicon.WOMEN, *lexicon.MEN, *lexicon.ROLES],
    lexicon.OBJECTS,
]
TESTED = {
    "sst2": [lexicon.GOOD, lexicon.BAD],
    "cola": [KINDS, [form for person in lexicon.PERSONS for form in person[:2]]],
    "mnli": [KINDS],
    "rte": [KINDS],
    "wnli": [lexicon.OBJECTS, lexicon.CONTAINERS],
    **{task: EVENTS for task in ("mrpc", "qqp", "stsb", "qnli")},
}
# Forms that are not the split's own: the words for giving and taking are shared by all.
SHARED = {form for transfer in lexicon.TRANSFERS for verb in transfer for form in verb}


@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_a_reader_of_the_surface_finds_every_label_again(task: str, split: str):
    *texts, labels = tasks.rows(task, split, 500, seed=3).values()
    read = [getattr(mini_oracle, task)(*row) for row in zip(*texts, strict=True)]
    assert read == labels


@pytest.mark.parametrize("split", tasks.SPLITS["e2e"])
def test_a_reference_says_all_that_its_meaning_does_and_no_more(split: str):
    columns = tasks.rows("e2e", split, 300, seed=3)
    for meaning, reference in zip(columns["mr"], columns["ref"], strict=True):
        assert dict(re.findall(r"(\w+)\[([^]]*)\]", meaning)) == mini_oracle.e2e(reference)


def test_a_meaning_has_two_to_five_references_and_lies_in_one_split():
    seen = []
    for split in tasks.SPLITS["e2e"]:
        meanings = tasks.rows("e2e", split, 300, seed=3)["mr"]
        counts = [meanings.count(meaning) for meaning in set(meanings[:-5])]
        assert min(counts) >= 2
        seen.append(set(meanings))
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


@pytest.mark.parametrize("task", LABELLED)
def test_columns_and_labels_are_those_of_the_real_task(task: str):
    real = OmegaConf.load(ROOT / f"conf/task/{task}.yaml")
    assert tasks.FIELDS[task] == [*real.text, real.label]
    found = set(tasks.rows(task, "train", 400, seed=0)[real.label])
    assert found == set(tasks.LABELS[task])
    if real.labels is not None:
        assert sorted(found) == sorted(real.labels)
    else:
        assert {float(score) for score in found} == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_labels_are_equally_frequent(task: str, split: str):
    labels = list(tasks.rows(task, split, 500, seed=4).values())[-1]
    share = 1 / len(tasks.LABELS[task])
    for label in tasks.LABELS[task]:
        assert abs(labels.count(label) / 500 - share) < 0.09, label


def used(task: str, split: str) -> tuple[set[tuple[str, ...]], set[str]]:
    """The texts of a split, and their words."""
    *texts, _ = tasks.rows(task, split, 500, seed=0).values()
    rows = set(zip(*texts, strict=True))
    return rows, {word for row in rows for one in row for word in re.findall(r"\w+", one)}


@pytest.mark.parametrize("task", LABELLED)
def test_splits_share_no_row_and_no_word_that_is_tested(task: str):
    lots: dict[str, list[tuple[set[tuple[str, ...]], set[str]]]] = {}
    for split in tasks.SPLITS[task]:
        lots.setdefault(tasks.lot(split), []).append(used(task, split))
    assert len(lots) == 3
    seen = {
        lot: [set.union(*parts) for parts in zip(*found, strict=True)]
        for lot, found in lots.items()
    }
    for one, two in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not seen[one][0] & seen[two][0]
        both = seen[one][1] & seen[two][1] - SHARED
        for words in TESTED[task]:
            assert not both & set(words)
    for words in TESTED[task]:
        assert all(seen[lot][1] & set(words) for lot in lots), "a class of words is never used"


def test_mismatched_sentences_are_of_another_topic():
    living = {form for kind in lexicon.LIVING for noun in kind for form in noun}
    made = {form for kind in lexicon.MADE for noun in kind for form in noun}
    for split, words in (("dev_matched", living), ("dev_mismatched", made)):
        *texts, _ = tasks.rows("mnli", split, 200, seed=0).values()
        for sentence in (*texts[0], *texts[1]):
            assert words & set(re.findall(r"\w+", sentence.lower())), sentence


def test_rows_are_equal_in_every_process():
    code = (
        "from experiments.mini.tasks import rows; from experiments.mini.passages import passages;"
        "from itertools import islice;"
        "print([rows(task, 'train', 20, 3, 0.2) for task in ('mrpc', 'mnli', 'e2e')],"
        " list(islice(passages(7), 40)))"
    )
    expected = (
        [tasks.rows(task, "train", 20, 3, 0.2) for task in ("mrpc", "mnli", "e2e")],
        list(islice(passages.passages(7), 40)),
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == " ".join(map(str, expected))


def test_another_seed_gives_other_rows():
    assert tasks.rows("sst2", "train", 50, 0) != tasks.rows("sst2", "train", 50, 1)


@pytest.mark.parametrize(("task", "split"), [("wnli", "test"), ("sst2", "train")])
def test_more_rows_than_there_are_is_an_error(task: str, split: str):
    size = {"wnli": 600, "sst2": 0}[task]
    with pytest.raises(ValueError, match=f"cannot give {size} rows of {task} {split}"):
        tasks.rows(task, split, size, seed=0)


@pytest.mark.parametrize("task", LABELLED)
def test_noise_changes_labels_alone_and_at_its_rate(task: str):
    clean, noisy = (tasks.rows(task, "train", 2000, 0, noise) for noise in (0.0, 0.2))
    *texts, labels = clean.values()
    *others, mistaken = noisy.values()
    assert texts == others
    changed = np.mean([one != two for one, two in zip(labels, mistaken, strict=True)])
    # Of the six scores that may replace one, one is the same.
    assert abs(changed - 0.2 * (5 / 6 if task == "stsb" else 1)) < 0.03


@pytest.mark.parametrize("task", LABELLED)
def test_the_ceiling_is_what_the_true_labels_score(task: str):
    noise = 0.1
    real = OmegaConf.load(ROOT / f"conf/task/{task}.yaml")
    codes = {label: code for code, label in enumerate(tasks.LABELS[task])}
    truth = list(tasks.rows(task, "train", 2000, 0).values())[-1]
    labels = [tasks.mistaken(task, truth, noise, Draw(f"simulated {round}")) for round in range(10)]
    scores = [
        find_label_metric(metric).value(
            np.array([codes[x] for x in told]), np.array([codes[x] for x in truth])
        )
        for told in labels
        for metric in real.metrics
    ]
    assert np.mean(scores) == pytest.approx(tasks.ceiling(task, noise), abs=0.01)


# --- The unlabelled text -----------------------------------------------------------------------


PASSAGES = list(islice(passages.passages(11), 6000))


def test_a_passage_has_one_to_four_sentences_with_capital_and_mark():
    for passage in PASSAGES:
        assert 1 <= len(passage) <= 4
        for sentence in passage:
            assert len(sentence.split()) <= 30
            assert "[" in sentence or re.fullmatch(r"[A-Z].*[.?]", sentence), sentence


def test_the_text_has_every_word_that_a_task_tests():
    known = {word for passage in PASSAGES for s in passage for word in re.findall(r"\w+", s)}
    known |= {word.lower() for word in known}
    for task, split in SPLITS:
        *texts, _ = tasks.rows(task, split, 300, seed=0).values()
        words = {word for column in texts for s in column for word in re.findall(r"\w+", s)}
        assert words - {"true"} <= known  # by which the diagnostic set denies


def test_the_text_is_never_wrong_about_number():
    draw = Draw("numbers")
    for _ in range(500):
        passage = passages.agreements(draw)
        if not re.match("This|That|These|Those", passage[0]):
            assert [mini_oracle.cola(sentence) for sentence in passage] == ["1"] * len(passage)


def test_the_words_that_relate_sentences_tell_the_truth():
    draw, seen = Draw("verdicts"), set()
    related = {verdict: label for label, (_, verdict) in passages.RELATED.items()}
    for _ in range(2000):
        writer = draw.one(
            [passages.paraphrases, passages.questions, passages.answers, passages.inferences]
        )
        passage = writer(draw)
        if len(passage) < 3 or not re.match("They|That", passage[-1]):
            continue
        one, two, *_, verdict = passage
        seen.add(verdict)
        if writer in (passages.paraphrases, passages.questions):
            same = (mini_oracle.mrpc if writer is passages.paraphrases else mini_oracle.qqp)(
                one, two
            )
            assert verdict == {"1": passages.AGREE, "0": passages.DIFFER}[same], passage
        elif writer is passages.answers:
            answered = mini_oracle.qnli(one, two) == "entailment"
            assert verdict == (passages.ANSWERS if answered else passages.MISSES), passage
        else:
            assert mini_oracle.mnli(one, two) == related[verdict], passage
    assert len(seen) == 7


def test_two_texts_without_a_verdict_say_the_same():
    draw, seen = Draw("pairs"), set()
    for _ in range(600):
        writer = draw.one([passages.paraphrases, passages.questions, passages.answers])
        passage = writer(draw)
        if len(passage) != 2 or re.match("Namely|Equiv|Separately|Meanwhile", passage[1]):
            continue
        seen.add(writer)
        if writer is passages.answers:
            assert mini_oracle.qnli(*passage) == "entailment", passage
        else:
            same = mini_oracle.mrpc if writer is passages.paraphrases else mini_oracle.qqp
            assert same(*passage) == "1", passage
    assert len(seen) == 3


def test_remarks_on_two_events_are_true():
    draw, seen = Draw("remarks"), set()
    roles = {name: role for role, name in passages.PARTS.items()}
    for _ in range(1000):
        passage = draw.one([passages.paraphrases, passages.reports])(draw)
        if len(passage) < 3 or not re.match("Same|Other", passage[2]):
            continue
        one, two = mini_oracle.statement(passage[0]), mini_oracle.statement(passage[1])
        for remark in passage[2].lower().rstrip(".").split(", "):
            how, name = remark.split()
            seen.add(remark)
            assert (how == "same") == (one[roles[name]] == two[roles[name]]), passage
    assert len(seen) == 2 * len(passages.PARTS)


def test_remarks_on_questions_are_true():
    draw, seen = Draw("asked"), set()
    roles = {name: role for role, name in passages.PARTS.items()}
    for _ in range(1000):
        writer = draw.one([passages.questions, passages.answers])
        passage = writer(draw)
        if len(passage) < 3 or not passage[2].startswith("After"):
            continue
        told = re.findall(r"after the (\w+)", passage[2].lower())
        for question, name in zip(passage, told, strict=False):
            asked = [role for role, value in mini_oracle.question(question).items() if value == "?"]
            seen.add(name)
            assert asked == ([] if name == passages.WHOLE else [roles[name]]), passage
    assert len(seen) == 6


def test_remarks_on_kinds_and_times_are_true():
    draw, seen = Draw("kinds"), set()
    for _ in range(2000):
        passage = passages.inferences(draw)
        if len(passage) < 4:
            continue
        one, two = (mini_oracle.lowered(sentence) for sentence in passage[:2])
        nouns = [
            next(mini_oracle.ONE[word] for word in said.split() if word in mini_oracle.ONE)
            for said in (one, two)
        ]
        if nouns[0] == nouns[1]:
            expected = "same kind"
        else:
            expected = f"{'narrower' if nouns[0] in mini_oracle.TOP.values() else 'wider'} kind"
        if "time" in passage[2]:
            days = ["day" in mini_oracle.circumstances(said)[1] for said in (one, two)]
            how = "same" if days[0] == days[1] else "wider" if days[0] else "narrower"
            expected += f", {how} time"
        seen.add(expected)
        assert passage[2].lower() == f"{expected}.", passage
    assert len(seen) == 12


def test_remarks_on_what_a_review_weighs_are_true():
    draw, seen = Draw("views"), 0
    for _ in range(1000):
        passage = passages.reviews(draw)
        if len(passage) < 3:
            continue
        remarks = re.findall(r"the (\w+) (impressed|disappointed)", passage[1].lower())
        clauses = re.split(r", but |, and |, even though |although |, ", passage[0].lower())
        for thing, how in remarks:
            (clause,) = [part for part in clauses if f"the {thing} " in part]
            assert mini_oracle.sst2(clause) == str(int(how == passages.PLEASED)), passage
            seen += 1
    assert seen > 300


def test_invented_words_come_in_their_share_and_are_said_again():
    drawn = list(islice(passages.passages(5, spelled=0.5), 2000))
    records = [passage for passage in drawn if " : " in passage[0]]
    assert 0.28 < len(records) / len(drawn) < 0.38  # two in three of one half
    for written, told in records:
        fields = dict(field.split(" : ") for field in written.split(" | "))
        assert sum(value.lower() in told.lower() for value in fields.values()) >= 2
    assert list(islice(passages.passages(11), 50)) == PASSAGES[:50]


def test_an_opinion_in_the_text_goes_with_its_verdict():
    draw = Draw("opinions")
    for _ in range(500):
        passage = passages.reviews(draw)
        found = re.fullmatch(r"(So|Overall|Still|Nevertheless), (.*)\.", passage[-1])
        if found and found[2] in passages.LIKED + passages.DISLIKED:
            liked = (found[2] in passages.LIKED) == (found[1] in ("So", "Overall"))
            assert mini_oracle.sst2(passage[0]) == str(int(liked)), passage


# --- Words that could stand wrongly in another's place -----------------------------------------


def test_rivals_are_of_one_class_and_differ_in_meaning():
    found = rivals()
    assert all(word in found[other] for word, others in found.items() for other in others)
    assert not any(word in others for word, others in found.items())
    for pair in lexicon.DEEDS:
        for form in range(3):
            one, other = (verb[form] for verb in pair)
            assert other not in found[one]
            assert found[one] & {verb[form] for pair in lexicon.DEEDS for verb in pair}
    assert "are" in found["is"] and "robins" in found["robin"]
    # A bird is a robin's kind, not its rival; a fish is one.
    assert "bird" not in found["robin"] and "fish" in found["robin"]
    assert found["dull"] == set(lexicon.GOOD)


# --- The notebook ------------------------------------------------------------------------------

NOTEBOOK = ROOT / "notebooks/00-built-in-tasks.ipynb"


def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    for cell in codes:
        exec("".join(cell["source"]), names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 20 * len(tasks.FIELDS)


def test_the_notebook_needs_nothing_but_the_built_in_suite():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells)
    modules = re.findall(r"^\s*(?:from|import) ([\w.]+)", source, re.MULTILINE)
    assert set(modules) == {"itertools", "experiments.mini"}
