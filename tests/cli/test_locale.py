"""Files are UTF-8 whatever the locale says, and no terminal's encoding ends a command."""

import ast
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from hydra.core.hydra_config import HydraConfig

from experiments.data.tables import Table, check_unicode
from experiments.disk.folders import LOG, keep_command
from experiments.settings.compose import compose_config
from experiments.tasks.continued import check_texts

ROOMS = ("experiments", "variants", "analysis", "benchmarks")
# In the locale C without Python's own help, whose encoding is ASCII: what opens a file without
# naming an encoding fails twice, by the warning and by the first letter beyond ASCII.
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "WANDB_MODE": "disabled"}
STRICT = """
import sys, warnings
assert sys.stdout.encoding == "ascii", sys.stdout.encoding
warnings.filterwarnings("error", "", EncodingWarning, r"(experiments|analysis|variants)\\b")
from analysis import load
from experiments import api, predict
from experiments.adapters import __main__ as adapters

def call(main, *arguments):
    sys.argv = ["command", *arguments]
    main()

result = api.run(
    "hydra.searchpath=[file://.]", "task=mine", "data=local", "data.dir=.", "train=mini",
    "train.epochs=1", "compute.device=cpu", out="run",
)
assert result.config["task"]["names"] == ["schlecht", "sch\\u00f6n"]
call(predict.main, "run", "--file", "more.csv")
call(predict.main, "run", "--file", "more.csv", "--out", "out.csv")
call(adapters.main, "inspect", "run")
call(adapters.main, "merge", "run", "merged")
call(load.main, "run")
"""


def test_a_run_and_its_use_in_a_locale_of_ascii(tmp_path: Path) -> None:
    text = (ROOT / "conf/task/own.yaml").read_text(encoding="utf-8")
    text = text.replace("name: own", "name: mine")
    text = text.replace("names: [negative, positive]", "names: [schlecht, schön]")
    (tmp_path / "task").mkdir()
    (tmp_path / "task/mine.yaml").write_text(text, encoding="utf-8")
    rows = "".join(f"der film {i} war schön,positive\né 電影 {i},negative\n" for i in range(16))
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    (tmp_path / "more.csv").write_text("text\nschön 電影\n", encoding="utf-8")
    command = [sys.executable, "-X", "warn_default_encoding", "-c", STRICT]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **PLAIN}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert rb"sch\xf6n \u96fb\u5f71" in done.stdout
    assert "schön 電影" in (tmp_path / "out.csv").read_text(encoding="utf-8")
    labels = json.loads((tmp_path / "merged/config.json").read_text(encoding="utf-8"))["id2label"]
    assert labels == {"0": "schlecht", "1": "schön"}


def opened(path: Path) -> Iterator[ast.Call]:
    """Calls that open a file as text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        method = isinstance(node.func, ast.Attribute)  # read_text alone is the project's, for UTF-8
        name = getattr(node.func, "attr" if method else "id", "")
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        constants = [value.value for value in values if isinstance(value, ast.Constant)]
        binary = any(isinstance(value, str) and "b" in value for value in constants)
        owner = ast.unparse(node.func).partition(".")[0]
        text = name == "open" and not binary and owner not in ("os", "safe_open")
        piped = owner == "subprocess" and any(k.arg == "text" for k in node.keywords)
        if (method and name in ("read_text", "write_text")) or text or piped:
            yield node


@pytest.mark.parametrize("room", ROOMS)
def test_every_text_file_is_opened_with_its_encoding(room: str) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        for call in opened(path):
            named = {keyword.arg for keyword in call.keywords}
            assert "encoding" in named, f"{path}, line {call.lineno}: {ast.unparse(call)}"


@pytest.mark.parametrize("text", ["caf\udce9", json.loads(r'"\ud83d"')])
def test_half_a_character_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"train\.jsonl, line 7: text is not Unicode: position"):
        check_unicode("train.jsonl, line 7: text", text)
    with pytest.raises(ValueError, match=r"train\.jsonl, line 7: text is not Unicode: position"):
        check_texts(Table("train.jsonl", {"text": [text]}, [7], ""), "text")


def test_what_a_run_logs_is_utf8(tmp_path: Path) -> None:
    config = compose_config()
    HydraConfig.instance().set_config(config)
    with keep_command(tmp_path, config):
        logging.getLogger("somewhere").warning("schön")
    assert "schön" in (tmp_path / LOG).read_bytes().decode()
