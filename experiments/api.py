"""The command line as functions, for Python and notebooks: a run, a study, and what they left."""

from pathlib import Path

from experiments.results.result import Origin, Result, read_result
from experiments.running.runner import execute
from experiments.settings.compose import compose_config, keep_hydra_config
from experiments.settings.config import read
from experiments.stored.result import NAME
from experiments.study.command import begin, list_search_folders
from experiments.study.summary import Summary


def run(*overrides: str, out: str | Path | None = None) -> Result:
    """Do what `python run.py OVERRIDES` does, for example `run("variant=dora", "task=sst2")`.

    The result lies in the same folder as from the command line, below the working directory,
    unless `out` names another. Raises ValueError for a study, which is many runs.
    """
    with keep_hydra_config():
        cfg = compose_config(*overrides)
        folder = Path(out or cfg.hydra.run.dir)
    choices = dict(cfg.hydra.runtime.choices)
    if "study" in cfg:
        name = choices["study"]
        raise ValueError(
            f"study={name} is many runs, and this function carries out one: call "
            f"experiments.run_study('{name}')."
        )
    return execute(read(cfg), folder, Origin(choices, list(overrides)))


def run_study(name: str, *overrides: str) -> Summary:
    """Do what `python run.py study=NAME OVERRIDES` does, and return what it came to.

    `groups` of the summary has a row for every method by protocol and task: its trials, its chosen
    setting, its scores. Runs that are done already are not repeated, and with
    `study.dry_run=true` none is carried out. Raises ValueError, once all else is done, if a run
    failed.
    """
    with keep_hydra_config():
        cfg = compose_config(f"study={name}", *overrides)
        asked = list(cfg.hydra.overrides.task)
        summary = Summary(begin(cfg, name, asked, list_search_folders(cfg.hydra)))
        assert summary.groups is not None  # read while the configuration of Hydra is this one's
        return summary


def load_results(folder: str | Path) -> list[Result]:
    """Read every finished run in a folder and below it, in the order of their paths.

    Raises ValueError if there is none, or if one of them cannot be read.
    """
    paths = sorted(Path(folder).rglob(NAME))
    if not paths:
        raise ValueError(f"There is no finished run below {folder}.")
    return [read_result(path.parent) for path in paths]
