"""Start a study by `python run.py study=NAME`, and restore one by its name."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra.conf import HydraConf
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from experiments.disk.outputs import OUTPUTS
from experiments.settings.commandline import tell_new_name
from experiments.settings.compose import CONF
from experiments.settings.scalars import literal, quote
from experiments.settings.sections import build, restore_section
from experiments.settings.sections import naming as naming_settings
from experiments.stored import kinds
from experiments.stored import study as stored
from experiments.stored.roles import find_moved, regroup
from experiments.study.backends.base import Backend
from experiments.study.design import STUDIES, Study
from experiments.study.plan import Plan
from experiments.study.settings import parse_override

COMMON = {"study": "study/common.yaml", "backend": "backend/local.yaml"}
SECTIONS = tuple(COMMON)
TYPED = ("methods", "tasks", "overrides", "trial_overrides")  # hold overrides
LISTS = re.compile(r"(study\.)?(trial_)?overrides$|study\.(methods|tasks)\..")
OF_STUDY = re.compile(rf"[+~]*({'|'.join(SECTIONS)})\b")


def begin(config: DictConfig, name: str, overrides: list[str], folders: Sequence[str] = ()) -> Plan:
    """Carry out a study; raise ValueError at the end if a cell failed.

    `folders` are overrides that make Hydra look for settings beside the project's own.
    """
    with naming_settings():
        given = read_sections(config)
    for old in find_moved(given):
        tell_new_name(old)
    sections = regroup(given)
    study: Study = build("study", DictConfig(literal(sections["study"])))
    backend: Backend = build("backend", DictConfig(literal(sections["backend"])))
    # Overrides of the study itself are in its section already.
    common = [text for text in overrides if not OF_STUDY.match(text)]
    plan = Plan(study, name, common, list(folders))
    if study.dry_run:
        from experiments.study.forecast import forecast

        forecast(plan, backend)
        return plan
    content: dict[str, Any] = {
        "name": name,
        **kinds.with_kinds(sections),
        "overrides": common,
        "folders": list(folders),
    }
    stored.write(OUTPUTS / STUDIES / name / stored.NAME, content)
    from experiments.study.conduct import conduct  # which loads what runs need

    if not conduct(plan, backend):
        raise ValueError(f"Some runs failed; list them: python -m experiments.study failed {name}")
    return plan


def read_sections(config: DictConfig) -> dict[str, Any]:
    """The sections of a study, with their references resolved.

    Overrides stay as they are typed: `${model.linears.all}` in one means the model of its run.
    """
    given: dict[str, Any] = {key: config[key].copy() for key in SECTIONS}
    typed = {
        name: OmegaConf.to_container(config.study[name], resolve=False)
        for name in TYPED
        if OmegaConf.is_config(config.study.get(name))
    }
    for name in typed:
        given["study"][name] = None
    resolved: dict[str, Any] = {
        key: OmegaConf.to_container(section, resolve=True) for key, section in given.items()
    }
    resolved["study"] |= typed
    return resolved


def report_command(name: str) -> str:
    """The command that makes the report on a study."""
    return f"python -m analysis.report {(OUTPUTS / STUDIES / name).as_posix()} --out report.html"


def list_search_folders(config: HydraConf) -> list[str]:
    """The folders of settings beside the project's, as overrides that find them again."""
    folders = [
        quote(f"{source.schema}://{source.path}")
        for source in config.runtime.config_sources
        if source.provider.endswith("command-line")
    ]
    return [f"{stored.SEARCHPATH}[{','.join(folders)}]"] if folders else []


def restore_plan(name: str, trusted: bool = False) -> tuple[Plan, Backend]:
    """The plan of a study as it was begun, and where its cells are carried out.

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
    with naming(path):
        check_overrides(content)
        study, backend = (restore_section(key, with_defaults(key, content)) for key in SECTIONS)
        return Plan(study, name, content["overrides"], content["folders"], trusted), backend


def check_overrides(content: dict[str, Any]) -> None:
    """Raise ValueError, naming the key, for a text that Hydra does not read as an override."""
    for key, text in stored.overrides(content):
        if LISTS.match(key):
            try:
                parse_override(text)
            except HydraException:
                raise ValueError(
                    f"{key} has {text!r:.60}, which is no override such as train.epochs=1."
                ) from None


def with_defaults(section: str, content: dict[str, Any]) -> dict[str, Any]:
    """A section of a study's file, with the usual value of each setting that it does not know."""
    path = CONF / COMMON[section]
    common = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))
    stored = kinds.with_kinds(content.get(section, {}))
    same = stored.get(kinds.KIND) in (None, kinds.with_kinds(common)[kinds.KIND])
    return kinds.with_kinds(common) | stored if same else stored


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with a study."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
