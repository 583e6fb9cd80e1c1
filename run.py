"""Compose, read, execute, write: `python run.py variant=dora task=sst2`, or `--help`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import experiments.results.identity  # noqa: F401 (the resolver that names a run's folder)
from experiments.disk.folders import keep_command
from experiments.disk.outputs import is_empty, remove_unbegun
from experiments.machine.distributed import ALONE, read_world, shutdown
from experiments.results.result import Diverged, Origin, Paused, Result
from experiments.running.finished import show_finished
from experiments.settings.commandline import (
    add_overrides,
    list_overrides,
    sentence,
    with_new_names,
)
from experiments.settings.compose import compose_plain
from experiments.settings.mistakes import explain
from experiments.settings.scalars import as_written

# A further process of one run leaves the folder, the log and the screen to the first.
SILENT = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
FULL_ERROR = "HYDRA_FULL_ERROR"
HELP = {"--help", "-h"}
ASKED = os.environ.get(FULL_ERROR)  # by the user; this process sets it for Hydra
# What a person can mend.
ONE_LINE = (CompactHydraException, OSError, YAMLError, UnicodeDecodeError, MemoryError)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Run one cell and return its primary score, which is what a sweeper sees."""
    hydra_config = HydraConfig.get()
    if hydra_config.job.chdir:  # paths are told from where the command was typed all the same
        os.chdir(hydra_config.runtime.cwd)
    out = Path(hydra_config.runtime.output_dir)
    new = is_empty(out)
    # As typed: a reference in an override is not resolved.
    overrides = cast(list[str], OmegaConf.to_container(hydra_config.overrides.task, resolve=False))
    # Imports are where they are needed, so that --help, a mistake and a run that is over answer at
    # once: torch takes seconds.
    try:
        world = read_world()
        if world != ALONE and (hydra_config.mode == RunMode.MULTIRUN or "study" in cfg):
            raise ValueError("Several processes carry out one run; start each of a multirun alone.")
        if "study" in cfg:
            start_study(cfg, out, overrides)
            return 0.0
        result = show_finished(cfg, out) or execute_run(cfg, out, overrides)
    except Paused as pause:
        print(pause)
        return 0.0
    except (ValueError, OSError, Diverged) as error:
        if new:
            remove_unbegun(out)
        # Hydra prints this kind as one line; HYDRA_FULL_ERROR=1 shows where it came from.
        raise CompactHydraException(sentence(error)) from error
    return result.primary["score"]


def start_study(cfg: DictConfig, out: Path, overrides: list[str]) -> None:
    """Carry out the study that a config describes, and print its verdict."""
    from experiments.study.command import begin, list_search_folders

    hydra_config = HydraConfig.get()
    name = hydra_config.runtime.choices["study"]
    with keep_command(out, cfg), user_environment():
        begin(cfg, name, overrides, list_search_folders(hydra_config))
        if not cfg.study.dry_run:
            conclude(name)


def conclude(name: str) -> None:
    """Print the verdict of a study that is over, and the command that makes its report."""
    from analysis.report.verdict import verdict
    from experiments.disk.outputs import OUTPUTS
    from experiments.stored.said import say
    from experiments.study.command import report_command
    from experiments.study.design import STUDIES

    for line in ("", *verdict(OUTPUTS / STUDIES / name), f"As one page: {report_command(name)}"):
        say(line)


def execute_run(cfg: DictConfig, out: Path, overrides: list[str]) -> Result:
    """Carry out the run that a config describes."""
    from experiments.settings.config import read

    run = read(cfg)
    from experiments.running.runner import execute  # which imports far more

    origin = Origin(dict(HydraConfig.get().runtime.choices), overrides)
    first = read_world().first and not (out / "result.json").exists()
    with keep_command(out, cfg) if first else nullcontext():
        result = execute(run, out, origin)
    shutdown()
    return result


@contextmanager
def user_environment() -> Iterator[None]:
    """The environment as the user has it, for processes that are started in the block."""
    before = os.environ.pop(FULL_ERROR, None)
    if ASKED is not None:
        os.environ[FULL_ERROR] = ASKED
    try:
        yield
    finally:
        os.environ |= {} if before is None else {FULL_ERROR: before}


def silence() -> None:
    """Keep this process from writing what the first one writes."""
    add_overrides(SILENT)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the end)


def run_command() -> int:
    """Do what was asked for; what a person can mend is one line, and the rest a traceback."""
    from experiments.stored.shown import leave_pipe, visible

    sys.argv[1:] = with_new_names(sys.argv[1:])
    asked = os.environ.get(FULL_ERROR)
    # Hydra hands every error on then. By itself it prints a traceback of a full disk, for one.
    os.environ[FULL_ERROR] = "1"
    try:
        if HELP & set(sys.argv):
            from experiments.explain.help import show_help

            show_help(list_overrides())
        else:
            with as_written():
                main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130  # as a shell reports SIGINT
    except ONE_LINE as error:
        if BrokenPipeError in (type(error), type(error.__cause__)):
            leave_pipe()
        if asked == "1":
            raise
        if text := explain(error, list_overrides(), compose_plain):
            print(text, file=sys.stderr)
            return 1
        # The text may be of a file that others wrote; line breaks in it are Hydra's own.
        print("\n".join(map(visible, sentence(error).splitlines())), file=sys.stderr)
        if isinstance(error.__cause__, OmegaConfBaseException):
            print(error.__cause__, file=sys.stderr)
        print(f"\nSet the environment variable {FULL_ERROR}=1 for a complete stack trace.",
              file=sys.stderr)  # fmt: skip
        return getattr(error.__cause__, "exit_code", 1)
    finally:
        os.environ.pop(FULL_ERROR)
        if asked is not None:
            os.environ[FULL_ERROR] = asked
    return 0


if __name__ == "__main__":
    # As torchrun sets them.
    if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK") != "0":
        silence()
    if code := run_command():
        sys.exit(code)
