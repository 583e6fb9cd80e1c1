"""Hydra's config for the overrides of a command, composed from Python."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig

from experiments.settings.commandline import with_new_names
from experiments.settings.mistakes import explain
from experiments.settings.scalars import as_written

CONF = Path(__file__).parents[2] / "conf"


def compose_config(*overrides: str) -> DictConfig:
    """Hydra's config for these overrides, its own part included.

    Raises Hydra's exceptions, with a sentence that names what was meant by an unknown name.
    """
    given = with_new_names(overrides)
    try:
        cfg = compose_plain(given)
    except HydraException as error:
        if text := explain(error, given, compose_plain):
            error.args = (text,)
        raise
    # The name of the run's folder is written in terms of Hydra's choices.
    HydraConfig.instance().set_config(cfg)
    return cfg


def compose_plain(overrides: Sequence[str]) -> DictConfig:
    """The same for names that are all of today, with errors as Hydra has them."""
    with as_written(), own_hydra():
        return compose("config", overrides=list(overrides), return_hydra_config=True)


@contextmanager
def keep_hydra_config() -> Iterator[None]:
    """Afterwards Hydra's own part of the config is what it was, which may be another program's."""
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    try:
        yield
    finally:
        hydra_config.cfg = before


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
    """Return whether Hydra's settings are this project's."""
    paths = hydra.config_loader().get_search_path().get_path()
    folders = [element.path.removeprefix("file://") for element in paths if element.path]
    return any(Path(folder).is_dir() and Path(folder).samefile(CONF) for folder in folders)
