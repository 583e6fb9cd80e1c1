"""The site: it is built strictly and without network, and every page is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, VARIANTS

import analysis
import experiments
import variants

pytestmark = pytest.mark.thorough

ATTRIBUTE = r"\s(?:src|srcset)=\"?([^\s\">]+)"
LOADED = re.compile(r"<(?:script|img|source|iframe)[^>]*" + ATTRIBUTE, re.IGNORECASE)
STYLES = re.compile(r"<link[^>]*rel=\"?(?:stylesheet|preload|preconnect)[^>]*>", re.IGNORECASE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error and with nobody to ask on the network."""
    folder = tmp_path_factory.mktemp("site")
    nobody = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | nobody | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in sorted(site.rglob("*.html")):
        if page.is_relative_to(site / "results"):
            continue
        text = read(page)
        loaded = LOADED.findall(text) + STYLES.findall(text)
        assert not [one for one in loaded if "//" in one], page


def test_each_method_has_a_page_with_its_equation_settings_and_sources(site: Path) -> None:
    facts = yaml.safe_load(read(ROOT / "docs/tools/methods.yaml"))
    assert set(facts) <= set(VARIANTS)
    for name in VARIANTS:
        text = read(site / f"methods/{name}.html")
        math = '<math xmlns="http://www.w3.org/1998/Math/MathML"' in text
        assert math == (name in facts), name
        for head in ("Settings", "Cost and properties", "Sources"):
            assert f">{head}<" in text, (name, head)
        assert (site / f"source/conf/variant/{name}.yaml.txt").is_file()


def test_pages_name_no_machine(site: Path) -> None:
    for page in sorted(site.rglob("*.html")):
        assert str(ROOT) not in read(page), page


def test_pictures_come_in_light_and_dark() -> None:
    names = {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    assert names == {name.replace("-dark.", "-light.") for name in names} | {
        name.replace("-light.", "-dark.") for name in names
    }
    assert all(path.stat().st_size < 200_000 for path in (ROOT / "docs/pictures").iterdir())


def test_every_function_that_a_package_exports_is_described(site: Path) -> None:
    text = read(site / "python.html")
    for package in (variants, experiments, analysis):
        for name in package.__all__:
            assert re.search(rf">\s*{package.__name__}\.{name}\s*<", text), name
    assert "Put a method into a model, in place, and return the method." in text
