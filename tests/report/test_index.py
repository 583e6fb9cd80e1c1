"""The page on all published studies: its board, its links, and the page that is published here."""

import re
import shutil
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from conftest import ROOT
from stored_runs import study

from analysis import index
from analysis.family import count
from analysis.index import __main__ as command
from analysis.report import words

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'"
METHODS = {"lora": 0.8, "full": 0.9, HOSTILE: 0.7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two published studies of one name, one of them on a task with an odd name."""
    folder = tmp_path_factory.mktemp("any") / "results"
    study(folder / "first", METHODS, ["sst2", "a & <b>: 100%"], seeds=3, examples=100)
    study(folder / "second", {"lora": 0.8, "dora": 0.8}, ["sst2"], seeds=3, examples=100)
    return folder


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return index.make_page(folder, folder)


def cells(html: str) -> list[list[str]]:
    """The cells of the board as they stand in the page."""
    body = html[html.index("<tbody>") : html.index("</tbody>")]
    return [re.findall(r"<td.*?</td>", row, re.S) for row in body.split("<tr>")[1:]]


def test_the_same_studies_give_the_same_page_wherever_they_lie(
    folder: Path, html: str, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "results"
    shutil.copytree(folder, moved)
    assert index.make_page(moved, moved) == html
    assert str(folder.parent) not in html


def test_every_link_leads_to_a_file_or_to_runs_on_the_page(folder: Path, html: str) -> None:
    links = re.findall(r'href="([^"]*)"', html)
    inside = {link[1:] for link in links if link.startswith("#")}
    files = [link for link in links if not link.startswith(("#", "data:"))]
    assert inside <= set(re.findall(r'id="([^"]*)"', html)) and len(inside) == 3 + 8
    assert all((folder / unquote(link)).is_file() for link in files)
    assert sum("result.json" in link for link in files) == 8 * 3
    assert sum("summary.json" in link for link in files) == 2


def test_links_lead_from_wherever_the_page_lies(folder: Path, tmp_path: Path) -> None:
    links = re.findall(r'href="([^"#]*result.json)"', index.make_page(folder, tmp_path))
    assert links and all((tmp_path / unquote(link)).is_file() for link in links)


def test_the_board_has_a_row_for_each_method_on_each_task(folder: Path, html: str) -> None:
    studies, left_out = index.read_studies(folder, folder)
    found = [(one, row) for s in studies for one in s.report.found for row in one.methods.index]
    assert len(cells(html)) == len(found) == 8 and not left_out
    for (one, place), row in zip(found, cells(html), strict=True):
        known, text = one.methods.loc[place], "".join(row)
        assert f">{words.score(known['mean'], one.metric)}</a>" in text
        assert words.between(known["low"], known["high"], one.metric) in text
        assert f"<sup>{known['letters']}</sup>" in text
        assert f">{known['trained']:,.0f}</a>" in text
    assert "All rows: model minilm, " in html and "rows 2,000" not in html


def test_names_are_only_text(html: str) -> None:
    assert "<img" not in html and html.count("<script") == html.count("</script>") == 1
    assert str(escape(HOSTILE)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in html


def test_it_asks_for_nothing_from_outside(html: str) -> None:
    assert not re.findall(r"https?://|//[a-z]", html.replace("http://www.w3.org/2000/svg", ""))
    assert "@import" not in html and " src=" not in html.replace(" src=x", "")


def test_runs_that_differ_in_the_seed_alone_have_one_command() -> None:
    runs = [{"overrides": ["variant=lora", f"seed={seed}", "a=[b,c]"], "seed": seed}
            for seed in (0, 1, 2)]  # fmt: skip
    other = {"overrides": ["variant=lora"], "seed": 0}
    assert index.commands([*runs, other, {"overrides": [], "seed": 4}]) == [
        ("python run.py variant=lora 'a=[b,c]' seed=0", "1, 2"),
        ("python run.py variant=lora seed=0", ""),
    ]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr("sys.argv", ["index", *map(str, arguments)])
    command.main()


def test_a_study_that_cannot_be_read_is_named_and_stops_no_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "second", tmp_path / "second")
    (tmp_path / "broken" / "studies" / "empty").mkdir(parents=True)
    (tmp_path / "broken" / "studies" / "empty" / "study.json").write_text("{}")
    call(monkeypatch, tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert "Left out: There is no finished run below" in text and len(cells(text)) == 2
    assert str(tmp_path) not in text


def test_a_folder_without_a_study_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="There is no study below"):
        call(monkeypatch, tmp_path)


def test_the_published_page_is_what_the_code_writes() -> None:
    results = ROOT / "results"
    published = (results / index.NAME).read_text(encoding="utf-8")
    assert index.make_page(results, results) == published, "python -m analysis.index results"


def test_a_number_stands_with_its_noun() -> None:
    counted = ((1, "study"), (3, "study"), (2, "loss"), (2, "seed"))
    assert [count(number, noun) for number, noun in counted] == [
        "1 study", "3 studies", "2 losses", "2 seeds"
    ]  # fmt: skip
