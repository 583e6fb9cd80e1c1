"""README and the pages in docs/: what they list is there, and what they point to."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, VARIANTS

from experiments.stored import adapter, checkpoint, result, study
from experiments.stored.roles import MOVED

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
PICTURE = re.compile(r'(?:src|srcset)="([^"]+)"')
MKDOCS = re.compile(r"^(?:!!!|\?\?\?|=== )", re.MULTILINE)
SETTING = re.compile(r"\b((?:variant|train|compute|record|study|backend)\.[a-z]\w*)(?=[=`])")


def test_every_method_has_its_line_in_the_table_and_none_is_listed_that_is_not() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[`(\w+)`\]", text, re.MULTILINE)) == VARIANTS


def test_readme_is_short_and_counts_the_methods() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert f"\n{len(VARIANTS)} methods, " in text


@pytest.mark.parametrize("page", ["README.md", "docs/which-variant.md"])
def test_the_tables_by_purpose_name_every_method(page: str) -> None:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert set(VARIANTS) <= set(re.findall(r"\w+", " ".join(rows)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_setting_that_a_page_names_is_one(page: Path) -> None:
    """The page of settings is that of the code (`test_schema.py`); former names still work."""
    listed = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    known = {*SETTING.findall(listed), *MOVED, study.NAME}
    assert not set(SETTING.findall(page.read_text(encoding="utf-8"))) - known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, _ in LINK.findall(text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_a_page_at_the_root_shows_on_a_code_host(page: Path) -> None:
    """Its pictures are files of the repository, and nothing needs the site's builder."""
    text = page.read_text(encoding="utf-8")
    assert all((ROOT / name).is_file() for name in PICTURE.findall(text))
    assert not MKDOCS.search(text)


def test_the_changes_name_every_format_and_every_setting_that_moved() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    formats = {
        result.NAME: result.SCHEMA, adapter.NAME: adapter.FORMAT,
        study.NAME: study.FORMAT, "checkpoint.safetensors": checkpoint.FORMAT,
    }  # fmt: skip
    for name, number in formats.items():
        assert f"| `{name}` | {number} |" in text, name
    for former in MOVED:
        assert f"`{former}`" in text, former


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["version"] == project["version"] and cited["license"] == project["license"]
    assert cited["authors"] == [{"name": "lora-assay contributors"}] and "doi" not in cited


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_a_form_for_issues_has_a_name_and_fields_of_their_own(form: Path) -> None:
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert content["name"] and content["description"]
    names = [field["id"] for field in content["body"]]
    assert len(set(names)) == len(names)
    assert all(field["attributes"]["label"] for field in content["body"])


@pytest.mark.skipif(shutil.which("make") is None, reason="There is no make here.")
def test_make_alone_says_what_there_is_and_starts_nothing() -> None:
    def said(*targets: str) -> str:
        command = ["make", "--no-print-directory", *targets]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    assert said().startswith("make  ") and "make run ARGS=" in said() and "pytest" not in said()
    assert said() == said("help")
