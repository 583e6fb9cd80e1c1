"""A study as it is asked for: by `python run.py study=NAME`, and again by its name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf

from experiments.settings.compose import CONF
from experiments.settings.config import build, restored_section
from experiments.settings.scalars import quoted
from experiments.stored import kinds
from experiments.stored import study as stored
from experiments.study.conduct import conduct
from experiments.study.design import OUTPUTS, STUDIES, Study
from experiments.study.plan import Plan

COMMON = "study/common.yaml"


def begin(
    section: DictConfig, name: str, overrides: list[str], folders: Sequence[str] = ()
) -> Plan:
    """Carry out a study; raises ValueError, once all is done, if a cell failed.

    `folders` are overrides that make Hydra look for settings beside the project's own.
    """
    study: Study = build("study", section)
    # What the overrides say of the study itself is in its section already.
    common = [text for text in overrides if not text.lstrip("+~").startswith("study")]
    plan = Plan(study, name, common, list(folders))
    if study.dry_run:
        from experiments.study.forecast import forecast

        forecast(plan)
        return plan
    content: dict[str, Any] = {
        "name": name,
        "study": kinds.with_kinds(OmegaConf.to_container(section, resolve=True)),
        "overrides": common,
        "folders": list(folders),
    }
    stored.write(OUTPUTS / STUDIES / name / stored.NAME, content)
    if not conduct(plan):
        raise ValueError(f"Some runs failed: python -m experiments.study failed {name}")
    return plan


def searched(config: HydraConf) -> list[str]:
    """The folders of settings beside the project's, as overrides that find them again."""
    folders = [
        quoted(f"{source.schema}://{source.path}")
        for source in config.runtime.config_sources
        if source.provider.endswith("command-line")
    ]
    return [f"{stored.SEARCHPATH}[{','.join(folders)}]"] if folders else []


def restore_plan(name: str, trusted: bool = False) -> Plan:
    """The plan of a study as it was begun.

    Raises ValueError if there was none, if its file is damaged, or if that says what only the
    user's own command line may say, and it is not trusted.
    """
    folder = OUTPUTS / STUDIES
    path = folder / name / stored.NAME
    if not path.exists():
        there = ", ".join(sorted(p.parent.name for p in folder.glob(f"*/{stored.NAME}"))) or "none"
        raise ValueError(f"There is no study '{name}' in {folder}; there: {there}.")
    content = stored.read(path, trusted)
    # A setting that is newer than the study has the value that it has in every other.
    common = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(CONF / COMMON)))
    section = kinds.with_kinds(common) | content["study"]
    with naming(path):
        study: Study = restored_section("study", kinds.with_kinds(section))
        return Plan(study, name, content["overrides"], content["folders"], trusted)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with a study."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
