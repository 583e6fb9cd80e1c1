"""Names that others chose, wherever they are shown: text, and nothing that is obeyed."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.text
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from stored_runs import store

from analysis import allocation, figures, geometry, ledger
from analysis import load as loading
from analysis.family import Rule
from analysis.report import export
from analysis.report.material import gather
from analysis.report.page import Report
from experiments import predict
from experiments.adapters import __main__ as adapters
from experiments.disk.files import CHECKSUM
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import read
from experiments.stored.shown import file_name, no_formula, plain, visible
from experiments.study import __main__ as study

ODD = (
    '=HYPERLINK("http://x")', "+1", "-1+1", "@x", "\t=1", "name [/x]", "[bold]b[/bold]",
    r"$\frac{1$", "a$b$c", "\x1b]0;title\x07\x1b[31mred", "two\nlines", "a|b", "a\\|b", "<script>",
    "\u202egnp.exe", "\r\x1b[2K", "%d {0}", "\x9b31m", "a&b_c#d", "\\", "💡",
)  # fmt: skip


def test_what_a_terminal_would_obey_is_written_out() -> None:
    for text in ODD:
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in visible(text)), text
        assert str(plain(text)) == visible(text)
    assert visible("\x1b[31m\n\x7f\x9b") == r"\x1b[31m\n\x7f\x9b"
    assert visible("Größe, 日本 💡 é") == "Größe, 日本 💡 é"


def test_no_cell_is_worked_out() -> None:
    assert [no_formula(text)[0] for text in ODD[:5]] == ["'"] * 5
    assert no_formula(-1.5) == -1.5 and no_formula("lora") == "lora"


def test_a_name_leads_to_no_other_folder() -> None:
    for text in ("../../etc/x", "/etc/passwd", "..", ".", "", "a/b", "a\0b", "C:\\x", *ODD):
        name = file_name(text)
        assert Path(name).name == name and name not in (".", "..")


@pytest.fixture(scope="module")
def odd_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a method of every odd name."""
    folder = tmp_path_factory.mktemp("odd")
    generator = np.random.default_rng(0)
    for number, name in enumerate(ODD):
        for seed in (0, 1):
            tag = {"tracker": {"group": "odd", "tags": ["clean", "sst2", name]}}
            store(folder / str(number), f"v{number}", seed, generator.random(40) < 0.8, config=tag)
    return folder


@pytest.fixture(scope="module")
def odd_report(odd_runs: Path) -> Report:
    return Report(gather(odd_runs), Rule())


def test_tables_for_papers_keep_their_rows_and_columns(odd_report: Report, tmp_path: Path) -> None:
    export.write(odd_report.found, tmp_path, "95 %")
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(ODD)
    cells = [cell for row in rows for cell in row.values()]
    assert not any(cell.startswith(("=", "+", "-1+", "@", "\t")) for cell in cells)
    lines = (tmp_path / "scores.md").read_text().splitlines()
    body = [line for line in lines if line.startswith("| ")]
    assert len(body) == 2 + len(ODD) + 1  # the baseline has the last row
    pipes = {line.replace("\\\\", "").replace("\\|", "").count("|") for line in body}
    assert len(pipes) == 1 and "<script" not in "".join(lines)
    tex = (tmp_path / "scores.tex").read_text()
    assert tex.count(r"\\") == 1 + len(ODD) + 1 and "\x1b" not in tex


def test_a_page_and_its_figures_take_any_name(odd_report: Report) -> None:
    html = odd_report.html()
    assert "<script>alert" not in html and "&lt;script&gt;" in html


@pytest.mark.parametrize("name", ODD)
def test_a_figure_writes_a_name_as_it_is(name: str) -> None:
    table = pd.DataFrame(
        {"method": [name, "lora"], "mean": [0.5, 0.6], "low": [0.4, 0.5], "high": [0.6, 0.7],
         "letters": ["a", "b"], "order": [0, 1]}
    )  # fmt: skip
    axes = figures.scores(table)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    assert f"{visible(name)}  a".strip().replace("$", r"\$") in texts


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What a command of a module prints, on either stream."""

    def call(module: Any, *words: object) -> str:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        monkeypatch.setenv("COLUMNS", "400")
        capfd.readouterr()
        try:
            module.main()
        except SystemExit as stop:
            print(stop.code or "")
        return "".join(capfd.readouterr())

    return call


def only_text(said: str) -> None:
    """Nothing that a terminal would obey is in what was printed."""
    obeyed = [c for c in said if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160]
    assert not obeyed and "\u202e" not in said
    assert "Traceback" not in said and "MarkupError" not in said


def test_commands_show_odd_names_as_text(
    odd_runs: Path, command: Callable[..., str], tmp_path: Path
) -> None:
    for number, name in enumerate(ODD):
        path = next((odd_runs / str(number)).rglob("result.json"))
        content = json.loads(path.read_text())
        content["label"] = {"variant": name, "task": f"local/{name}", "model": name}
        content["telemetry"] = ranks = {"rank/h.0.query": 2.0, f"rank/h.1.{name}": 3.0}
        content["examples"]["source"] = {"train": name}
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(content))
        (folder / "history.jsonl").write_text(json.dumps({"step": 1, **ranks}) + "\n")
        only_text(command(loading, folder))
        only_text(command(ledger, folder))
        if number % 4 == 1:  # figures take a moment
            only_text(command(allocation, folder, "--out", tmp_path / "figures"))
    assert {path.parent.parent for path in tmp_path.rglob("*.png")} == {tmp_path / "figures"}


def test_an_adapter_of_odd_names_is_shown_as_text(
    command: Callable[..., str], tmp_path: Path
) -> None:
    small = ("data.train=64", "data.dev=32", "train.epochs=1", "tracker.mode=disabled")
    execute(read(compose_config(*small)), tmp_path / "run")
    result = json.loads((tmp_path / "run/result.json").read_text())
    about = json.loads((tmp_path / "run/adapter.json").read_text())
    del result[CHECKSUM], about[CHECKSUM]
    for name in ODD:
        result["config"]["task"]["names"] = about["head"]["names"] = [name, "other"]
        result["config"]["model"]["name"] = about["model"]["name"] = name
        (tmp_path / "run/result.json").write_text(json.dumps(result))
        (tmp_path / "run/adapter.json").write_text(json.dumps(about))
        said = command(adapters, "inspect", tmp_path / "run")
        only_text(said)
        assert visible(name) in said
        said = command(predict, tmp_path / "run", "--text", "a fine film")
        only_text(said)
        assert f"p({visible(name)})" in said
        out = tmp_path / "answers.csv"
        command(predict, tmp_path / "run", "--text", "a fine film", "--out", out)
        with out.open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert not row["prediction"].startswith(("=", "+", "-", "@", "\t"))
    about["variant"]["_kind_"] = "\x1b[31m[/x]"
    (tmp_path / "run/adapter.json").write_text(json.dumps(about))
    for words in ((adapters, "inspect"), (geometry,)):
        only_text(command(*words, tmp_path / "run"))


def test_a_study_of_odd_names_is_shown_as_text(
    command: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    methods = {name: ["variant=lora", f"variant.lr={i + 1}e-3"] for i, name in enumerate(ODD)}
    content = {"name": "mine", "overrides": [], "study": {
        "_kind_": "study", "methods": methods, "tasks": {"sst2": [], "odd [/x] \x1b": ["task=rte"]},
        "axes": {"train.weight_decay": [0.01]}, "seeds": 1}}  # fmt: skip
    path = tmp_path / "outputs/studies/mine/study.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    said = command(study, "status", "mine")
    only_text(said)
    assert f"{2 * len(ODD)} waiting" in said and "name [/x]" in said
