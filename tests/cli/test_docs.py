"""README and the pages in docs/: what they list is there, and what they point to."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, VARIANTS

PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def test_every_method_has_its_line_in_the_table_and_none_is_listed_that_is_not() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[`(\w+)`\]", text, re.MULTILINE)) == VARIANTS


def test_readme_is_short_and_counts_the_methods() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert f"\n{len(VARIANTS)} methods, " in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, _ in LINK.findall(text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.skipif(shutil.which("make") is None, reason="There is no make here.")
def test_make_alone_says_what_there_is_and_starts_nothing() -> None:
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.startswith("make  ") and "make run ARGS=" in said and "pytest" not in said
    assert said == subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
