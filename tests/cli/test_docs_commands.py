"""What the pages tell a reader to type works: each command in a smoke form, each piece of Python.

A run is composed and its settings are checked. Another program reads its options and stops. make
says what it would do. Nothing is trained but by the pieces of Python, on tiny models.
"""

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from hydra.core.override_parser.overrides_parser import OverridesParser
from page_code import BLOCK, PROGRAMS, Command, list_commands, list_snippets, parse
from stored_runs import study
from transformers import LlamaConfig, LlamaForCausalLM

import experiments
import experiments.results.identity  # the resolvers
from experiments.settings.compose import compose_config
from experiments.settings.given import check_config
from experiments.settings.sections import build

pytestmark = pytest.mark.thorough

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = list(dict.fromkeys(command for page in PAGES for command in list_commands(page)))
# Names that a reader puts something in the place of, and what stands there here.
NAMES = {
    "GROUP=CHOICE": "task=own",
    "task=NAME": "task=own",
    "variant=NAME": "variant=lora",
    "study=NAME": "study=first",
}
FILE = re.compile(r"# ((?:\w+/)+\w+)\.py\n")
FLAGS = {"-m", "--multirun", "--help", "-h", "--hydra-help", "--shell-completion", "--cfg"}
# Tools that read no options by argparse, or whose commands of a page would take long to import.
MODULES_OF_OTHERS = {"venv", "pip", "pytest", "mkdocs", "zipfile"}


def named(command: Command) -> str:
    return str(command)[:90]


@pytest.mark.parametrize("command", COMMANDS, ids=named)
def test_a_command_of_a_page_is_one(command: Command) -> None:
    words = command.words
    assert words[0] in PROGRAMS, f"{words[0]} is no program that the pages speak of."
    if words[0] == "make":
        check_make(words[1:])
    elif "run.py" in words[:5]:
        check_run(words[words.index("run.py") + 1 :])
    elif words[0] == "python" and words[1] != "-c":
        other = words[1] == "-m" and words[2] in MODULES_OF_OTHERS
        if not other:
            check_program(words[1:])


def check_make(words: tuple[str, ...]) -> None:
    """make knows the target, and its settings are set as the file has them."""
    if shutil.which("make") is None:
        pytest.skip("There is no make here.")
    make_knows(tuple(words))


@cache
def make_knows(words: tuple[str, ...]) -> None:
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        if "=" in word:
            assert f"$({word.partition('=')[0]})" in text, word


def check_run(words: tuple[str, ...]) -> None:
    """The config of a run, or of a study, composes, and its settings are right."""
    assert {word for word in words if word.startswith("-")} <= FLAGS | {"--config-dir"}, words
    overrides = [NAMES.get(word, word) for word in words if "=" in word]
    overrides = [word for word in overrides if not word.startswith("install=")]
    if "--config-dir" in words or any(
        word.startswith("experiment=fourierft-TASK") for word in words
    ):
        return
    cfg = compose_config(*first_of_sweeps(overrides))
    if "study" in cfg:
        build("study", cfg.study)
        build("backend", cfg.backend)
    else:
        check_config(cfg)


def first_of_sweeps(overrides: list[str]) -> list[str]:
    """The overrides with the first value of each that has several."""
    found = []
    for one in OverridesParser.create().parse_overrides(overrides):
        key = one.get_key_element()
        sweeps = one.is_sweep_override()
        value = (
            next(iter(one.sweep_string_iterator())) if sweeps else one.get_value_element_as_str()
        )
        found.append(f"{key}={value}")
    return [word for word in found if not word.startswith("hydra/launcher")]


def check_program(words: tuple[str, ...]) -> None:
    """A program of the project reads these options."""
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file(), words[0]
    if words[0].startswith("tests/"):
        return
    parse_once(tuple(words))


@cache
def parse_once(words: tuple[str, ...]) -> None:
    parse(words, ROOT)


# --- Python and YAML ------------------------------------------------------------------------------

TINY = [
    "data.train=32", "data.dev=16", "train.epochs=1", "train.batch_size=16", "compute.device=cpu",
    "tracker.mode=disabled",
]  # fmt: skip


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Where a page speaks of a study, a model or data, these are there; runs are tiny."""
    study(tmp_path / "outputs/studies/first", {"lora": 0.8, "dora": 0.82}, ["sst2"], seeds=4)
    shutil.copytree(tmp_path / "outputs/studies/first", tmp_path / "outputs/mini/rte")
    monkeypatch.chdir(tmp_path)
    whole = experiments.run
    monkeypatch.setattr(experiments, "run", lambda *given: whole(*given, *TINY))
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    text = {"input_ids": torch.arange(6), "labels": torch.arange(6)}
    draw = np.random.default_rng(0)
    return {
        "__name__": "page", "model": LlamaForCausalLM(config), "data": [text] * 8,
        "right_a": draw.integers(0, 2, (4, 50)), "right_b": draw.integers(0, 2, (4, 50)),
    }  # fmt: skip


@pytest.mark.parametrize("page", [p for p in PAGES if list_snippets(p)], ids=lambda p: p.name)
def test_the_python_of_a_page_runs(
    page: Path, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in list_snippets(page):
        source = source.replace('"mini/sst2"', '"local/sst2"')  # the study that is there
        if "RUN, OTHER" in source:
            runs = (experiments.run(f"variant={name}", "task=sst2") for name in ("lora", "vera"))
            names["RUN"], names["OTHER"] = (str(result.folder) for result in runs)
        file = FILE.match(source)
        if file:  # a file of the project that a reader is to write
            name = file[1].replace("/", ".")
            module = ModuleType(name)
            monkeypatch.setitem(sys.modules, name, module)
            exec(compile(source, str(page), "exec"), vars(module))
        else:
            exec(compile(source, str(page), "exec"), names)


def test_the_yaml_of_the_pages_can_be_read() -> None:
    for page in PAGES:
        for lang, body in BLOCK.findall(page.read_text(encoding="utf-8")):
            if lang == "yaml":
                assert yaml.safe_load(body), page


def test_every_block_says_what_it_is() -> None:
    """A block without a language is neither run nor coloured."""
    for page in PAGES:
        fences = [line for line in page.read_text("utf-8").splitlines() if line.startswith("```")]
        assert all(len(fence) > 3 for fence in fences[::2]), page.name
