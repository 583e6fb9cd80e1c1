"""The command line as a function: the same run from Python or a notebook."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from experiments.results.result import Origin, Result
from experiments.running.runner import execute
from experiments.settings.compose import composed
from experiments.settings.config import read


def run(*overrides: str, out: str | Path | None = None) -> Result:
    """Do what `python run.py OVERRIDES` does, for example `run("variant=dora", "task=sst2")`.

    The result lies in the same folder as from the command line, below the working directory,
    unless `out` names another.
    """
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    try:
        cfg = composed(*overrides)
        folder = Path(out or cfg.hydra.run.dir)
    finally:
        hydra_config.cfg = before  # which may be another program's
    origin = Origin(dict(cfg.hydra.runtime.choices), list(overrides))
    return execute(read(cfg), folder, origin)
