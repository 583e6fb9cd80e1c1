"""A study as it is asked for: by `python run.py study=NAME`, and again by its name."""

from typing import Any, cast

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf

from experiments.api import CONF
from experiments.config import build
from experiments.files import read_object, write_json
from experiments.scalars import quoted
from experiments.study.conduct import conduct
from experiments.study.design import OUTPUTS, STUDIES, Study
from experiments.study.plan import Plan


def begin(section: DictConfig, name: str, overrides: list[str]) -> None:
    """Carry out a study; raises ValueError, once all is done, where a cell failed."""
    study: Study = build("study", section)
    # What the overrides say of the study itself is in its section already.
    common = [text for text in overrides if not text.lstrip("+~").startswith("study")]
    plan = Plan(study, name, common)
    if study.dry_run:
        from experiments.study.forecast import forecast

        forecast(plan)
        return
    content: dict[str, Any] = {
        "name": name,
        "study": OmegaConf.to_container(section, resolve=True),
        "overrides": common,
    }
    write_json(OUTPUTS / STUDIES / name / "study.json", content)
    if not conduct(plan):
        raise ValueError(f"Some runs failed: python -m experiments.study failed {name}")


def searched(config: HydraConf) -> list[str]:
    """The folders of settings beside the project's, as overrides that find them again."""
    folders = [
        quoted(f"{source.schema}://{source.path}")
        for source in config.runtime.config_sources
        if source.provider.endswith("command-line")
    ]
    return [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []


def again(name: str) -> Plan:
    """The plan of a study as it was begun; raises ValueError where there was none."""
    folder = OUTPUTS / STUDIES
    path = folder / name / "study.json"
    if not path.exists():
        there = ", ".join(sorted(p.parent.name for p in folder.glob("*/study.json"))) or "none"
        raise ValueError(f"There is no study '{name}' in {folder}; there: {there}.")
    content = read_object(path)
    # A setting that is newer than the study has the value that it has in every other.
    section = OmegaConf.merge(OmegaConf.load(CONF / "study/common.yaml"), content["study"])
    study: Study = build("study", cast(DictConfig, section))
    return Plan(study, name, content["overrides"])
