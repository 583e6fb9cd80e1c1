"""The command line as a function: the same run from Python or a notebook."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase
from omegaconf import DictConfig

from experiments.results.result import Origin, Result
from experiments.running.runner import execute
from experiments.settings.config import read
from experiments.settings.scalars import as_written

CONF = Path(__file__).parents[1] / "conf"


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


def composed(*overrides: str) -> DictConfig:
    """Hydra's config for these overrides, its own part included."""
    with as_written(), own_hydra():
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
    # The name of the run's folder is written in terms of Hydra's choices.
    HydraConfig.instance().set_config(cfg)
    return cfg


@contextmanager
def own_hydra() -> Iterator[None]:
    """Hydra set up for this project's `conf/`, and afterwards for whatever it was before.

    It can be set up once: by the command line that has asked for a study, with folders of settings
    beside `conf/`, or by another program that this one is called from.
    """
    other = GlobalHydra.instance().hydra
    if other is not None and reads_conf(GlobalHydra.instance()):
        yield
        return
    base = VersionBase.instance().getbase()
    GlobalHydra.instance().hydra = None
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = other
        VersionBase.instance().version_base = base


def reads_conf(hydra: GlobalHydra) -> bool:
    """Whether Hydra's settings are this project's."""
    paths = hydra.config_loader().get_search_path().get_path()
    folders = [element.path.removeprefix("file://") for element in paths if element.path]
    return any(Path(folder).is_dir() and Path(folder).samefile(CONF) for folder in folders)
