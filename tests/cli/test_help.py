"""What `--help` and `experiments.list` say, and that neither they nor a mistake wait for torch."""

import argparse
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.list import explain, main

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "pandas", "scipy", "numba", "datasets", "wandb"}
COMMAND = """
import runpy, sys
sys.path.insert(0, {root!r})
sys.argv = {arguments!r}
try:
    {call}
except SystemExit as end:
    print(end)
print("imported:", *sorted({heavy!r} & sys.modules.keys()))
"""


def call(program: str, *rest: str) -> str:
    """What a command says, and last the heavy packages that it has imported."""
    way = "run_path" if program.endswith(".py") else "run_module"
    code = COMMAND.format(
        root=str(ROOT), arguments=[program, *rest], heavy=HEAVY,
        call=f"runpy.{way}({program!r}, run_name='__main__')",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run.py", "--help"], "Examples"),
        (["run.py", "variant.rnk=4"], "Did you mean variant.rank?"),
        (["run.py", "variant=doar"], "Did you mean variant=dora?"),
        (["run.py", "variant.rank=four"], "could not be converted to Integer"),
        (["run.py", "train.epochs=x"], "could not be converted to Float"),
        (["run.py", "train.epochs=-1"], "train.epochs must be positive"),
        (["run.py", "task.metrics=[acuracy]"], "Did you mean 'accuracy'?"),
        (["experiments.study", "status", "none"], "There is no study 'none'"),
        (["experiments.list", "variants"], "dora"),
        (["experiments.list", "metrics"], "accuracy"),
        (["experiments.predict", "--help"], "usage"),
    ],
    ids=" ".join,
)
def test_a_question_or_a_mistake_is_answered_without_heavy_imports(
    arguments: list[str], said: str
) -> None:
    out = call(*arguments)
    assert said in out
    assert "imported:\n" in out, out[-300:]


def test_help_explains_the_settings_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    out = call("run.py", "variant=vera", "variant.rank=7", "--help")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "variant.rank=7 r" in lines
    assert any(line.startswith("variant.d_initial=0.1 start of every entry of d") for line in lines)
    assert any(line.startswith("train.batch_size=32 examples per step") for line in lines)
    assert "target" not in out.replace("targets", "")  # dotted paths are no setting
    assert all(len(line) <= 100 for line in out.splitlines())


def test_help_explains_what_a_setting_is_made_of() -> None:
    lines = [" ".join(line.split()) for line in call("run.py", "task=e2e", "--help").splitlines()]
    assert "task.decoding.beams=1 1: greedy" in lines
    assert any(line.startswith("task.hub.path=") for line in lines)


def test_help_of_a_command_with_a_mistake_names_it() -> None:
    assert "Did you mean variant.rank?" in call("run.py", "variant.rnk=4", "--help")


def test_help_reads_settings_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    own = (ROOT / "conf/task/own.yaml").read_text().replace("name: own", "name: mine")
    (tmp_path / "task/mine.yaml").write_text(own)
    out = call("run.py", "--config-dir", str(tmp_path), "task=mine", "--help")
    assert "task.name=mine" in out


def test_lists_take_the_singular_and_the_plural(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain("studies") == explain("study")
    monkeypatch.setattr(sys, "argv", ["list", "variats"])
    with pytest.raises(SystemExit, match="Did you mean 'variants'"):
        main()
    monkeypatch.setattr(sys, "argv", ["list", "tasks"])
    main()
    assert "sst2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [["run.py", "--help"], ["-m", "experiments.list", "variants"]], ids=["help", "list"]
)
def test_a_reader_who_leaves_early_is_no_error(command: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # as `| head` does
        assert process.stderr.read() == b"" and process.wait() == 1


TOOLS = [
    "analysis.report", "analysis.load", "analysis.ledger", "analysis.plan", "analysis.index",
    "analysis.geometry", "analysis.allocation", "analysis.transfer", "experiments.study",
    "experiments.adapters", "experiments.predict", "experiments.list", "experiments.mini.pretrain",
]  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_the_help_of_a_tool_begins_with_a_sentence_and_explains_each_option(tool: str) -> None:
    parsers: list[argparse.ArgumentParser] = []

    def parse_args(self: argparse.ArgumentParser, *args: object) -> None:
        parsers.append(self)
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        runpy.run_module(tool, run_name="__main__")
    for parser in parsers:
        text = (parser.description or "").strip()
        assert text[0].isupper() and "." in text, tool
        assert all(action.help for action in parser._actions), tool


def test_help_opens_with_eight_commands_and_then_the_groups() -> None:
    lines = call("run.py", "--help").splitlines()
    examples = [line for line in lines if line.startswith("  python run.py ")]
    assert len(examples) == 8 and lines.index(examples[0]) < 5
    assert lines.index("Examples") < next(i for i, s in enumerate(lines) if s.startswith("Groups"))
    assert next(i for i, s in enumerate(lines) if s.startswith("Groups")) < next(
        i for i, s in enumerate(lines) if s.startswith("Settings")
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete(shell: str) -> None:
    assert "hydra" in call("run.py", "--shell-completion", f"install={shell}")
