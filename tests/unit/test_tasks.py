"""Reading tasks: the rows of every format as they are, and an error for everything amiss."""

import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf
from served_hub import Served, commit, served

from experiments.data import sources
from experiments.data.batches import encode
from experiments.data.sources import Hub, Local
from experiments.data.splits import Data, Split
from experiments.data.tables import Part, read_table
from experiments.disk import hub
from experiments.mini import tasks as mini
from experiments.mini.source import Mini
from experiments.models.loading import read_tokenizer
from experiments.tasks.base import Task
from experiments.tasks.text import TextTask

ROOT = Path(__file__).parents[2]
REAL = ROOT / "../shared/data/glue"
GLUE = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
SUFFIXES = ["tsv", "csv", "json", "jsonl", "parquet"]

# Header lines of the released files.
HEADERS = {
    "cola": ["source", "label", "mark", "sentence"],
    "sst2": ["sentence", "label"],
    "mrpc": ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
    "stsb": [
        *["index", "genre", "filename", "year", "old_index", "source1", "source2"],
        *["sentence1", "sentence2", "score"],
    ],
    "qqp": ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    "mnli": [
        *["index", "promptID", "pairID", "genre", "sentence1_binary_parse"],
        *["sentence2_binary_parse", "sentence1_parse", "sentence2_parse"],
        *["sentence1", "sentence2", "label1", "gold_label"],
    ],
    "qnli": ["index", "question", "sentence", "label"],
    "rte": ["index", "sentence1", "sentence2", "label"],
    "wnli": ["index", "sentence1", "sentence2", "label"],
}
HUB_COLUMNS = {
    "cola": ["sentence"],
    "sst2": ["sentence"],
    "mrpc": ["sentence1", "sentence2"],
    "stsb": ["sentence1", "sentence2"],
    "qqp": ["question1", "question2"],
    "mnli": ["premise", "hypothesis"],
    "qnli": ["question", "sentence"],
    "rte": ["sentence1", "sentence2"],
    "wnli": ["sentence1", "sentence2"],
}


def task(name: str, **changes: Any) -> TextTask:
    """The task of a YAML file, with some of its settings changed."""
    node = OmegaConf.load(ROOT / f"conf/task/{name}.yaml")
    cls = get_class(node._target_)
    given = {key: node[key] for key in node if key != "_target_"}
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), given, changes))


def local(folder: Path) -> Local:
    return Local(dir=str(folder))


def write(path: Path, header: list[str] | None, rows: list[list[str]]) -> Path:
    """Write rows in the format of the suffix, with every value a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = rows if header is None else [header, *rows]
    if path.suffix == ".tsv":
        path.write_text("".join("\t".join(row) + "\n" for row in lines))
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    if path.suffix in (".tsv", ".csv"):
        return path
    assert header is not None
    dicts = [dict(zip(header, row, strict=True)) for row in rows]
    if path.suffix == ".json":
        path.write_text(json.dumps(dicts))
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in dicts))
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(dicts), path)
    return path


def made_up(name: str, split: str, size: int) -> list[list[str]]:
    """Rows in the released layout; columns that no task reads are filled with a dash."""
    columns = mini.rows(name, split, size, seed=1)
    return [[columns[c][i] if c in columns else "-" for c in HEADERS[name]] for i in range(size)]


def released(name: str, folder: Path, suffix: str = "tsv") -> TextTask:
    """The task, and its files written to a folder in the released layout."""
    plain = task(name)
    files = {split: file.replace(".tsv", f".{suffix}") for split, file in plain.files.items()}
    bare = name == "cola" and suffix in ("tsv", "csv")
    for split in ["train", *plain.score_on]:
        header = None if bare else HEADERS[name]
        write(folder / files[split], header, made_up(name, split, 12 if split == "train" else 6))
    return task(name, files=files)


def own(folder: Path, text: str | bytes, suffix: str = "tsv", **changes: Any) -> Data:
    """The data of a task of one's own, of which a train file with this content is all."""
    path = folder / f"train.{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    changes = {"files": {"train": path.name}, "score_on": [], **changes}
    return task("own", **changes).load(local(folder))


# --- Every task in every format ----------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", GLUE)
def test_a_glue_task_reads_the_released_layout(name: str, suffix: str, tmp_path: Path):
    read = released(name, tmp_path, suffix)
    data = read.load(local(tmp_path))
    expected = mini.rows(name, "train", 12, seed=1)
    texts = list(zip(*(expected[column] for column in read.text), strict=True))
    assert data.train.texts == texts
    assert list(data.score) == read.score_on
    assert [len(split) for split in data.score.values()] == [6] * len(read.score_on)
    assert data.train.labels is not None
    if read.labels is None:
        assert data.train.labels.dtype == np.float32
        assert data.train.labels.tolist() == [float(score) for score in expected[read.label]]
    else:
        assert data.train.labels.dtype == np.int64
        assert [read.labels[code] for code in data.train.labels] == expected[read.label]


@pytest.mark.parametrize("name", GLUE)
def test_the_hub_gives_the_same_rows_as_the_files(name: str, tmp_path: Path, monkeypatch):
    read = released(name, tmp_path / "files")
    here = read.load(local(tmp_path / "files"))
    assert read.hub is not None
    commit = tmp_path / "commit"
    for split, examples in {"train": here.train, **here.score}.items():
        path = commit / read.hub.files[split].replace("*", "00000-of-00001")
        path.parent.mkdir(exist_ok=True, parents=True)
        columns = dict(zip(HUB_COLUMNS[name], zip(*examples.texts, strict=True), strict=True))
        columns |= {"label": examples.labels, "idx": examples.ids}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    monkeypatch.setattr(sources, "snapshot", lambda *wanted: commit)
    there = read.load(Hub())
    assert there.train.texts == here.train.texts
    np.testing.assert_array_equal(there.train.labels, here.train.labels)
    assert list(there.score) == list(here.score)
    assert there.train.origin.startswith("nyu-mll/glue@commit/")


def built_in(**changes: Any) -> Mini:
    """The built-in suite at its default settings, some of them changed."""
    node = OmegaConf.load(ROOT / "conf/data/mini.yaml")
    return Mini(**{str(key): node[key] for key in node if key != "_target_"} | changes)


@pytest.mark.parametrize("name", GLUE)
def test_the_built_in_suite_serves_every_glue_task(name: str):
    read = task(name)
    scored = [split for split in mini.SPLITS[name] if split != "train"]
    data = dataclasses.replace(read, score_on=scored).load(built_in(train=200, dev=30, test=40))
    assert data.train.labels is not None
    assert len(data.train) == 200
    if read.labels is not None:
        assert set(data.train.labels) == set(range(read.num_outputs))
    for split, examples in data.score.items():
        assert len(examples) == (40 if split.startswith("test") or split == "ax" else 30)
        assert examples.origin == f"built-in suite, mini/{name} {split}, seed 0, noise 0.0"


def test_the_built_in_suite_knows_no_task_and_no_split_of_ones_own():
    with pytest.raises(ValueError, match=r"no task 'own', use data=local.*It has: cola, sst2"):
        task("own").load(built_in())
    asked = task("sst2", files={"train": "t.tsv", "tets": "t.tsv"}, score_on=["tets"])
    with pytest.raises(ValueError, match=r"no split 'tets' of task 'sst2'.*'test'.*train, dev, te"):
        asked.load(built_in())


def test_a_rate_of_noise_beyond_half_is_an_error():
    with pytest.raises(ValueError, match=r"data.noise must be at least 0 and below 0.5, got 0.5"):
        built_in(noise=0.5)


TESTS = {
    "cola": ["index", "sentence"],
    "sst2": ["index", "sentence"],
    "mrpc": ["index", "#1 ID", "#2 ID", "#1 String", "#2 String"],
    "stsb": HEADERS["stsb"][:-1],
    "qqp": ["id", "question1", "question2"],
    "mnli": HEADERS["mnli"][:-2],
    "qnli": HEADERS["qnli"][:-1],
    "rte": HEADERS["rte"][:-1],
    "wnli": HEADERS["wnli"][:-1],
}


@pytest.mark.parametrize("name", GLUE)
def test_the_released_test_file_is_predicted_on_request_without_labels(name: str, tmp_path: Path):
    read = released(name, tmp_path)
    for split in [split for split in read.files if split.startswith("test")]:
        columns = mini.rows(name, split, 6, seed=1)
        rows = [[columns[c][i] if c in columns else "-" for c in TESTS[name]] for i in range(6)]
        write(tmp_path / read.files[split], TESTS[name], rows)
        data = dataclasses.replace(read, predict_on=[split]).load(local(tmp_path))
        assert data.predict[split].labels is None
        texts = list(zip(*(columns[column] for column in read.text), strict=True))
        assert data.predict[split].texts == texts


def test_the_diagnostic_set_is_predicted_on_request_without_labels(tmp_path: Path):
    released("mnli", tmp_path)
    header = ["index", "sentence1", "sentence2"]
    write(tmp_path / "diagnostic/diagnostic.tsv", header, [["0", "the one", "the other"]])
    data = task("mnli", predict_on=["ax"]).load(local(tmp_path))
    assert list(data.predict) == ["ax"]
    assert data.predict["ax"].labels is None
    assert data.predict["ax"].texts == [("the one", "the other")]


@pytest.mark.parametrize(
    ("name", "train", "dev"),
    [("sst2", 67349, 872), ("cola", 8551, 1043), ("mrpc", 3668, 408), ("wnli", 635, 71)],
)
def test_the_released_files_have_the_published_sizes(name: str, train: int, dev: int):
    if not REAL.is_dir():
        pytest.skip(f"no real GLUE data at {REAL}")
    data = task(name).load(local(REAL))
    assert (len(data.train), len(data.score["dev"])) == (train, dev)


def test_taking_rows_keeps_ids_and_labels_together():
    ids, labels = np.arange(4), np.array([0, 1, 1, 0])
    split = Split(ids, [("a",), ("b",), ("c",), ("d",)], labels, "here", "0")
    taken = split.take(np.array([2, 0]))
    assert taken.ids.tolist() == [2, 0] and taken.texts == [("c",), ("a",)]
    assert taken.labels is not None and taken.labels.tolist() == [1, 0]
    assert dataclasses.replace(split, labels=None).take(np.array([1])).labels is None


# --- What is in a file is read as it is --------------------------------------------------------


def test_crlf_line_ends_and_a_byte_order_mark_leave_no_trace(tmp_path: Path):
    text = "\ufefftext\tlabel\r\nfine\tpositive\r\nbad\tnegative\r\n"
    for suffix, content in {"tsv": text, "csv": text.replace("\t", ",")}.items():
        data = own(tmp_path, content, suffix)
        assert data.train.texts == [("fine",), ("bad",)]
        assert data.train.labels is not None and data.train.labels.tolist() == [1, 0]


@pytest.mark.parametrize("odd", ["\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x00"])
def test_an_odd_separator_in_a_tsv_sentence_does_not_break_the_row(odd: str, tmp_path: Path):
    data = own(tmp_path, f"text\tlabel\none{odd}two\tpositive\nfine\tnegative\n")
    assert data.train.texts == [(f"one{odd}two",), ("fine",)]


def test_line_ends_that_were_converted_twice_leave_no_trace(tmp_path: Path):
    data = own(tmp_path, b"text\tlabel\r\r\nfine\tpositive\r\r\nbad\tnegative\r\r\n")
    assert data.train.texts == [("fine",), ("bad",)]
    assert data.train.labels is not None and data.train.labels.tolist() == [1, 0]


def test_quotes_in_a_tsv_are_plain_text(tmp_path: Path):
    data = own(tmp_path, 'text\tlabel\n"one\tpositive\ntwo" three\tnegative\n')
    assert data.train.texts == [('"one',), ('two" three',)]


def test_a_quoted_csv_field_holds_commas_quotes_and_line_ends(tmp_path: Path):
    data = own(tmp_path, 'text,label\n"a, ""b""\nc",positive\nd,negative\n', "csv")
    assert data.train.texts == [('a, "b"\nc',), ("d",)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_field_of_any_length_is_read_cut_and_counted(
    suffix: str, tmp_path: Path, tiny: Callable[[str], Path]
):
    long = "good " * 60_000
    write(tmp_path / f"train.{suffix}", ["text", "label"], [[long, "positive"], ["b", "negative"]])
    read = task("own", files={"train": f"train.{suffix}"}, score_on=[]).load(local(tmp_path))
    assert read.train.texts == [(long,), ("b",)]
    tokenizer = read_tokenizer(tiny("roberta"), 10_000)
    encoded = encode(tokenizer, read.train, 64)
    assert encoded.truncated == 1 and encoded.lengths.max() == 64


def test_a_row_after_a_field_of_two_lines_is_named_by_its_true_line(tmp_path: Path):
    with pytest.raises(ValueError, match=r"train.csv, line 4: unknown label 'worse'"):
        own(tmp_path, 'text,label\n"a\nb",positive\nc,worse\n', "csv")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("word", ["null", "None", "nan", "N/A", "NA", "1.0", "True"])
def test_a_word_that_looks_like_a_missing_value_stays_a_word(
    word: str, suffix: str, tmp_path: Path
):
    path = write(tmp_path / f"train.{suffix}", ["text", "label"], [[word, "positive"]])
    read = task("own", files={"train": path.name}, score_on=[])
    assert read.load(local(tmp_path)).train.texts == [(word,)]


def test_blank_lines_at_the_end_of_a_file_are_no_rows(tmp_path: Path):
    assert len(own(tmp_path, "text\tlabel\nfine\tpositive\n\n\n").train) == 1


def test_integers_may_be_codes_where_labels_are_words(tmp_path: Path):
    rows = "".join(json.dumps({"text": "fine", "label": code}) + "\n" for code in (1, 0))
    data = own(tmp_path, rows, "jsonl")
    assert data.train.labels is not None and data.train.labels.tolist() == [1, 0]


def test_integers_are_values_where_labels_are_numbers(tmp_path: Path):
    rows = "".join(json.dumps({"text": "fine", "label": value}) + "\n" for value in (2, 1))
    data = own(tmp_path, rows, "jsonl", labels=["1", "2"])
    assert data.train.labels is not None and data.train.labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"line 1: unknown label 0. Known are: 1, 2\."):
        own(tmp_path, json.dumps({"text": "fine", "label": 0}), "jsonl", labels=["1", "2"])


@pytest.mark.parametrize("labels", [["false", "true"], ["False", "True"], ["FALSE", "TRUE"]])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_truth_values_match_their_names(suffix: str, labels: list[str], tmp_path: Path):
    rows = [{"text": "fine", "label": True}, {"text": "bad", "label": False}]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    content = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows),
        "parquet": buffer.getvalue(),
    }
    data = own(tmp_path, content[suffix], suffix, labels=labels)
    assert data.train.labels is not None and data.train.labels.tolist() == [1, 0]


def test_broken_rows_of_qqp_are_left_out_and_counted(tmp_path: Path):
    read = released("qqp", tmp_path)
    with (tmp_path / "QQP/train.tsv").open("a") as file:
        file.write("7\t1\t2\thalf a question\nand the rest\tanother one ?\t1\n")
        file.write("8\t3\t4\twhat is it ?\t\t0\n")
    train = read.load(local(tmp_path)).train
    assert train.skipped == 2
    assert train.texts[-1] == ("what is it ?", "")
    assert train.ids.tolist() == list(range(13))


def test_the_hash_is_of_the_bytes_of_the_file(tmp_path: Path):
    one = own(tmp_path, "text\tlabel\nfine\tpositive\n").train
    two = own(tmp_path, "text\tlabel\r\nfine\tpositive\r\n").train
    assert one.texts == two.texts and one.sha256 != two.sha256 and len(one.sha256) == 64


def test_a_table_of_any_columns_can_be_read_for_another_kind_of_task(tmp_path: Path):
    path = tmp_path / "trainset.csv"
    path.write_bytes(b'mr,ref\r\n"name[X], food[Y]","It is X.\nIt has Y."\r\n')
    part = Part(
        task="e2e",
        split="train",
        columns=["mr", "ref"],
        file=path.name,
        header=None,
        hub=None,
        skip_malformed=False,
    )
    table = local(tmp_path).table(part)
    assert table.columns == {"mr": ["name[X], food[Y]"], "ref": ["It is X.\nIt has Y."]}
    assert table.where(0) == f"{path}, line 2"
    assert read_table(path, part) == table


# --- What is amiss is an error that says where --------------------------------------------------

BROKEN = {
    "empty file": ("tsv", "", r"train.tsv is empty\."),
    "byte order mark only": ("tsv", "\ufeff\n", r"train.tsv is empty\."),
    "header only": ("tsv", "text\tlabel\n", r"train.tsv holds no rows\."),
    "empty list": ("json", "[]", r"train.json holds no rows\."),
    "missing column": (
        "tsv",
        "texts\tlabel\nfine\tpositive\n",
        r"train.tsv has no column 'text'. Did you mean 'texts'\? It has: texts, label\.",
    ),
    "column twice": (
        "csv",
        "text,text,label\na,b,positive\n",
        r"train.csv has more than one column 'text'. It has: text, text, label\.",
    ),
    "too few fields": (
        "tsv",
        "text\tlabel\nfine\tpositive\nbad\n",
        r"train.tsv, line 3 has 1 fields, expected 2: text, label\.",
    ),
    "too many fields": (
        "csv",
        "text,label\nfine, really,positive\n",
        r"train.csv, line 2 has 3 fields, expected 2: text, label\.",
    ),
    "blank line inside": ("csv", "text,label\n\na,positive\n", r"line 2 has 0 fields, expected 2"),
    "lines converted twice": (
        "csv",
        "text,label\r\r\na,positive\r\r\n",
        r"train.csv, line 2 has 0 fields, expected 2: .* that end in CR CR LF\.",
    ),
    "unbalanced quote before much text": (
        "csv",
        'text,label\na,positive\n"b,negative\n' + "c,positive\n" * 20_000,
        r"train.csv, line 3: the row that starts here has an unbalanced quote",
    ),
    "unbalanced quote": (
        "csv",
        'text,label\na,positive\n"b,negative\nc,positive\n',
        r"train.csv, line 3: the row that starts here has an unbalanced quote",
    ),
    "unknown label": (
        "tsv",
        "text\tlabel\nfine\tpositiv\n",
        r"train.tsv, line 2: unknown label 'positiv'. Did you mean 'positive'\? "
        r"Known are: negative, positive\.",
    ),
    "no label": ("tsv", "text\tlabel\nfine\t\n", r"train.tsv, line 2 has no label \(''\), but"),
    "null label": ("jsonl", '{"text": "a", "label": null}', r"line 1 has no label \(None\), but"),
    "hub's mark of no label": ("jsonl", '{"text": "a", "label": -1}', r"has no label \(-1\), but"),
    "code out of range": ("jsonl", '{"text": "a", "label": 2}', r"line 1: unknown label 2"),
    "code as text": ("tsv", "text\tlabel\nfine\t1\n", r"line 2: unknown label '1'"),
    "empty text": ("tsv", "text\tlabel\n \tpositive\n", r"train.tsv, line 2: text is empty\."),
    "no text": ("jsonl", '{"text": null, "label": 1}', r"line 1: text must be text, got None\."),
    "number for a text": ("json", '[{"text": 5, "label": 1}]', r"row 1: text must be text, got 5"),
    "invalid UTF-8": (
        "tsv",
        b"text\tlabel\nfine\tpositive\ncaf\xe9\tpositive\n",
        r"train.tsv, line 3 is not UTF-8: byte 0xe9\.",
    ),
    "unknown suffix": (
        "tvs",
        "text\tlabel\n",
        r"unknown suffix '.tvs'. Did you mean '.tsv'\? Known are: .tsv, .csv, .json",
    ),
    "malformed JSON line": (
        "jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", "label": \n',
        r"train.jsonl, line 2 is not JSON: Expecting value",
    ),
    "JSON line without a key": (
        "jsonl",
        '{"text": "a", "lable": 1}\n',
        r"train.jsonl, line 1 has no column 'label'. Did you mean 'lable'\? It has: text, lable\.",
    ),
    "JSON line that is a list": ("jsonl", '["a", 1]\n', r"line 1 must be an object with"),
    "lines in a json file": (
        "json",
        '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n',
        r"train.json holds one JSON object on each line; name it .jsonl",
    ),
    "object in a json file": ("json", '{"text": "a"}', r"train.json must hold a list of objects"),
    "not parquet": ("parquet", b"PAR1 and no more", r"train.parquet is not a whole parquet file: "),
}


@pytest.mark.parametrize("fault", list(BROKEN))
def test_a_broken_file_is_an_error_that_names_the_place(fault: str, tmp_path: Path):
    suffix, content, message = BROKEN[fault]
    with pytest.raises(ValueError, match=message) as caught:
        own(tmp_path, content, suffix)
    assert str(caught.value).endswith(".")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("score", ["high", "nan", "inf", "", "1,5"])
def test_a_score_that_is_no_number_names_file_and_line(score: str, tmp_path: Path):
    read = released("stsb", tmp_path)
    path = tmp_path / "STS-B/train.tsv"
    lines = path.read_text().split("\n")
    lines[3] = lines[3].rpartition("\t")[0] + "\t" + score
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"train.tsv, line 4: the score must be a number, got"):
        read.load(local(tmp_path))


def test_a_truncated_parquet_file_is_an_error(tmp_path: Path):
    path = write(tmp_path / "whole.parquet", ["text", "label"], [["fine", "positive"]] * 50)
    with pytest.raises(ValueError, match=r"train.parquet is not a whole parquet file: .*\.$"):
        own(tmp_path, path.read_bytes()[:-20], "parquet")


def test_a_missing_column_of_a_parquet_file_names_the_near_one(tmp_path: Path):
    write(tmp_path / "train.parquet", ["texts", "label"], [["fine", "positive"]])
    read = task("own", files={"train": "train.parquet"}, score_on=[])
    with pytest.raises(ValueError, match=r"no column 'text'. Did you mean 'texts'\?"):
        read.load(local(tmp_path))


def test_a_missing_folder_is_named_with_the_near_one(tmp_path: Path):
    (tmp_path / "glue_data").mkdir()
    with pytest.raises(ValueError, match=r"data.dir is not a folder: .*Did you mean 'glue_data'"):
        task("sst2").load(local(tmp_path / "glue_dat"))


def test_a_missing_file_names_what_the_folder_holds(tmp_path: Path):
    released("cola", tmp_path)
    released("rte", tmp_path)
    with pytest.raises(
        ValueError,
        match=r"No file .*SST-2/train.tsv: data.dir must be the folder that holds SST-2/train.tsv; "
        r".* holds CoLA, RTE\.",
    ):
        task("sst2").load(local(tmp_path))


def test_an_unlabelled_train_split_is_an_error_and_one_to_predict_is_not(tmp_path: Path):
    write(tmp_path / "train.tsv", ["text"], [["fine"]])
    changes = {"files": {"train": "train.tsv"}, "score_on": []}
    with pytest.raises(ValueError, match=r"train.tsv has no column 'label'. It has: text\."):
        task("own", **changes).load(local(tmp_path))
    read = task("own", **changes).read(local(tmp_path), "train", labelled=False)
    assert read.labels is None and read.texts == [("fine",)]


def test_a_task_without_hub_files_says_what_to_do():
    with pytest.raises(ValueError, match=r"no hub files for split 'train'; use data=local"):
        task("own").load(Hub())


SETTINGS = {
    "three texts": ({"text": ["a", "b", "c"]}, r"text must name one or two columns, got 3\."),
    "unknown metric": ({"metrics": ["acuracy"]}, r"'acuracy' does not fit classes. Did you mean"),
    "metric of scores": ({"metrics": ["pearson"]}, r"'pearson' does not fit classes"),
    "metric of classes": (
        {"labels": None, "names": [], "metrics": ["f1"]},
        r"'f1' does not fit a score. These do: pearson, spearman\.",
    ),
    "no metric": ({"metrics": []}, r"metrics must name at least one of: accuracy, f1"),
    "f1 of three classes": (
        {"labels": ["a", "b", "c"], "names": ["a", "b", "c"], "metrics": ["f1"]},
        r"f1 needs two classes, the second positive, got 3\.",
    ),
    "one label": ({"labels": ["a"], "names": ["a"]}, r"two or more different values, got a\."),
    "label twice": ({"labels": ["a", "a"]}, r"two or more different values, got a, a\."),
    "too few names": ({"names": ["a"]}, r"names must have one entry per label, 2, got 1\."),
    "names of a score": (
        {"labels": None, "metrics": ["pearson"]},
        r"names must be empty for a score, got negative, positive\.",
    ),
    "unknown split": ({"score_on": ["dve"]}, r"Task 'own' has no split 'dve'. Did you mean 'dev'"),
    "no train split": ({"files": {"dev": "dev.csv"}}, r"has no split 'train'. It has: dev\."),
}


@pytest.mark.parametrize("fault", list(SETTINGS))
def test_settings_that_do_not_fit_are_an_error(fault: str):
    changes, message = SETTINGS[fault]
    settings = {f.name: getattr(task("own"), f.name) for f in dataclasses.fields(TextTask)}
    with pytest.raises(ValueError, match=message):
        TextTask(**{**settings, **changes})


# --- From outputs to scores ---------------------------------------------------------------------

OUTPUTS = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5], [0.0, 0.1]])


def test_classes_are_predicted_by_the_largest_output():
    read = task("mrpc")
    assert (read.num_outputs, read.regression, read.primary) == (2, False, "accuracy")
    assert read.predict(OUTPUTS).tolist() == [0, 1, 0, 1]
    scores = read.score(np.array([0, 1, 1, 1]), OUTPUTS)
    assert list(scores.items()) == [("accuracy", 0.75), ("f1", pytest.approx(0.8))]


def test_a_score_is_the_only_output():
    read: Task = task("stsb")
    assert (read.num_outputs, read.regression, read.primary) == (1, True, "pearson")
    labels = np.array([0.0, 1.0, 2.0], dtype=np.float32)
    outputs = 1 + 2 * labels[:, None]
    assert read.predict(outputs).tolist() == [1.0, 3.0, 5.0]
    assert read.score(labels, outputs) == {"pearson": 1.0, "spearman": 1.0}


@pytest.mark.parametrize(
    ("name", "metrics"),
    [("cola", ["matthews"]), ("sst2", ["accuracy"]), ("qqp", ["accuracy", "f1"])],
)
def test_the_official_metrics_are_reported(name: str, metrics: list[str]):
    assert list(task(name).score(np.array([0, 1, 1, 1]), OUTPUTS)) == metrics


def test_the_interval_holds_the_score_and_follows_the_generator():
    read = task("sst2")
    labels = np.array([0, 1, 1, 1] * 25)
    outputs = np.tile(OUTPUTS, (25, 1))
    low, high = read.interval(labels, outputs, np.random.default_rng(0))
    assert 0.6 < low < 0.75 < high < 0.9
    assert (low, high) == read.interval(labels, outputs, np.random.default_rng(0))


def test_outputs_that_are_not_finite_are_an_error():
    broken = OUTPUTS.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 4 examples are not finite, the first at posit.* 2"):
        task("sst2").score(np.array([0, 1, 1, 1]), broken)


def test_outputs_of_another_width_or_number_are_an_error():
    with pytest.raises(ValueError, match=r"shape \[n, 3\], got \[4, 2\]"):
        task("mnli").predict(OUTPUTS)
    with pytest.raises(ValueError, match=r"Got 4 outputs for 3 labels\."):
        task("sst2").score(np.array([0, 1, 1]), OUTPUTS)


# --- The hub ------------------------------------------------------------------------------------

ASK = """
import sys, time
from experiments.disk.hub import snapshot
kind, repo, *patterns = sys.argv[1:]
start = time.perf_counter()
try:
    print(snapshot(repo, kind, patterns, None))
except (ConnectionError, ValueError) as error:
    print(type(error).__name__, error)
print(time.perf_counter() - start)
"""


def ask_hub(folder: Path, endpoint: str, *wanted: str, offline: str = "0") -> tuple[str, float]:
    """What a fresh process with its cache in `folder` is told, and after how many seconds."""
    proxies = {name for name in os.environ if name.lower().endswith("_proxy")}
    env = {name: value for name, value in os.environ.items() if name not in proxies}
    env |= {
        "HF_HOME": str(folder),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, *wanted], env=env, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said, seconds = done.stdout.splitlines()
    return said, float(seconds)


@pytest.fixture(scope="module")
def small_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("set")
    (folder / "part").mkdir()
    for name in ("part/train-0.parquet", "README.md"):
        (folder / name).write_bytes(b"not really parquet")
    with served({"datasets/owner/set": folder}) as server:
        yield server.endpoint


def test_a_hub_out_of_reach_is_one_error_within_seconds_that_names_the_ways_on(tmp_path: Path):
    said, seconds = ask_hub(tmp_path, "http://127.0.0.1:9", "dataset", "owner/set", "a/*.parquet")
    assert said.startswith("ConnectionError No cached copy of dataset owner/set (a/*.parquet), and")
    assert "http://127.0.0.1:9 is out of reach" in said
    assert "data=local data.dir=FOLDER" in said and "data=mini" in said
    assert seconds < 5


def test_a_hub_that_never_answers_counts_as_out_of_reach(tmp_path: Path):
    with Served({}) as silent:  # accepts, and is not served
        said, seconds = ask_hub(tmp_path, silent.endpoint, "model", "owner/name", "*.safetensors")
    assert "is out of reach" in said and "model.path=FOLDER" in said
    assert seconds < 5


def test_a_name_that_is_never_resolved_counts_as_out_of_reach(monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(hub, "ask", lambda endpoint: str(never.wait(60)))
    monkeypatch.setattr(hub, "PATIENCE", 0.05)
    assert hub.probe("http://hub.invalid") == "no answer within 0.05 seconds"
    never.set()


def test_an_offline_setting_is_respected_at_once(tmp_path: Path, small_hub: str):
    said, _ = ask_hub(tmp_path, small_hub, "dataset", "owner/set", "part/*", offline="1")
    assert said.startswith("ConnectionError No cached copy") and "HF_HUB_OFFLINE is set" in said


def test_a_download_brings_the_wanted_files_and_is_reused_offline(tmp_path: Path, small_hub: str):
    wanted = ("dataset", "owner/set", "part/train-*.parquet")
    said, _ = ask_hub(tmp_path, small_hub, *wanted)
    folder = Path(said)
    assert folder.name == commit("datasets/owner/set")
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["train-0.parquet"]
    assert (folder / "part/train-0.parquet").read_bytes() == b"not really parquet"
    assert ask_hub(tmp_path, "http://127.0.0.1:9", *wanted)[0] == said
    assert ask_hub(tmp_path, small_hub, *wanted, offline="1")[0] == said
    said, _ = ask_hub(tmp_path, small_hub, "dataset", "owner/set", "other/*.parquet")
    assert said.startswith("ValueError The hub has dataset 'owner/set', but in it no other/*.parq")


def test_an_unknown_repository_is_an_error(tmp_path: Path, small_hub: str):
    said, _ = ask_hub(tmp_path, small_hub, "model", "owner/nmae", "*.safetensors")
    assert said.startswith("ValueError The hub has no public model 'owner/nmae'; model.path=FOLDER")


def test_an_impossible_name_is_an_error():
    with pytest.raises(ValueError, match="'no such name' is no name of a dataset on the hub"):
        hub.snapshot("no such name", "dataset", ["*.parquet"], None)
