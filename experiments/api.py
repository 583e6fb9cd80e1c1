"""The command line as a function: the same run from Python or a notebook."""

from contextlib import nullcontext
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.config import read
from experiments.results import Origin, Result
from experiments.runner import execute
from experiments.scalars import as_written

CONF = Path(__file__).parents[1] / "conf"


def run(*overrides: str, out: str | Path | None = None) -> Result:
    """What `python run.py OVERRIDES` does, for example `run("variant=dora", "task=sst2")`.

    The result lies in the same folder as from the command line, below the working directory,
    unless `out` names another.
    """
    cfg = composed(*overrides)
    described = read(cfg)
    origin = Origin(dict(cfg.hydra.runtime.choices), list(overrides))
    return execute(described, Path(out or cfg.hydra.run.dir), origin)


def composed(*overrides: str) -> DictConfig:
    """Hydra's config for these overrides, its own part included."""
    # Hydra can be set up once, and is where a command line has asked for a study.
    ready = GlobalHydra.instance().is_initialized()
    opened = nullcontext() if ready else initialize_config_dir(str(CONF), version_base="1.3")
    with as_written(), opened:
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    # The name of the run's folder is written in terms of Hydra's choices.
    HydraConfig.instance().set_config(cfg)
    return cfg
