"""The answer to `python run.py OVERRIDES --help`: examples, groups, and every setting explained."""

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from experiments.results.identity import value_of
from experiments.settings.compose import compose_config
from experiments.settings.given import RUN
from experiments.settings.mistakes import CONF, list_groups
from experiments.settings.schema import Schema, Setting, read_parts, read_schema
from experiments.stored.kinds import TARGET
from experiments.stored.shown import spell, visible

LONGEST = 32  # characters of a setting with its value that an explanation stands beside
SHOWN = 40  # characters of a value


def show_help(overrides: list[str]) -> None:
    """Print the help for a command with these overrides."""
    cfg = compose_config(*overrides)
    width = max(60, shutil.get_terminal_size().columns)
    print("\n".join(write_help(cfg, width)))


def write_help(cfg: DictConfig, width: int) -> Iterator[str]:
    """The lines of the help for a composed config."""
    yield cfg.hydra.help.header.strip()
    yield "\nGroups: GROUP=CHOICE. `python -m experiments.list GROUP` has a line on each choice."
    for group in list_groups():
        names = ", ".join(path.stem for path in sorted((CONF / group).glob("*.yaml")))
        yield textwrap.fill(f"  {group:12}{names}", width, subsequent_indent=" " * 14)
    yield "\nSettings: SETTING=VALUE, with the values that this command has."
    choices = cfg.hydra.runtime.choices
    run = read_schema(RUN)
    assert run is not None
    alone = []
    for name, node in cfg.items():
        if name == "hydra":
            continue
        if OmegaConf.is_dict(node) and TARGET in node:
            yield from write_section(str(name), choices.get(name), node, width)
        else:
            text = run.settings[str(name)].explanation if name in run.settings else ""
            alone.append(write_setting(str(name), node, text, width))
    yield "\n  of the run"
    yield from alone
    yield "\n`python run.py --hydra-help` lists the options of Hydra, which reads the settings."


def write_section(section: str, choice: str | None, node: DictConfig, width: int) -> Iterator[str]:
    """The lines on one section: its class, and its settings."""
    schema = read_schema(str(node[TARGET]))
    title = section if choice is None else f"{section}={choice}"
    about = schema.explanation if schema else str(node[TARGET])
    yield "\n" + textwrap.fill(f"  {title}: {about}", width, subsequent_indent="    ")
    yield from write_settings(section, schema, node, width)


def write_settings(path: str, schema: Schema | None, node: DictConfig, width: int) -> Iterator[str]:
    """The lines on the settings of a section, or of a setting that is made of several."""
    known: Mapping[str, Setting] = schema.settings if schema else {}
    for key in node:
        inside, setting = node._get_node(key), known.get(str(key))
        parts = read_parts(setting) if setting and OmegaConf.is_dict(inside) else None
        if parts is not None and not cast(DictConfig, inside)._is_none():
            yield from write_settings(f"{path}.{key}", parts, cast(DictConfig, inside), width)
        elif key != TARGET:
            text = setting.explanation if setting else ""
            yield write_setting(f"{path}.{key}", inside, text, width)


def write_setting(path: str, node: Any, text: str, width: int) -> str:
    """A setting, its value, and what it means."""
    left = f"    {path}={show_value(node)}"
    indent = " " * (LONGEST + 6)
    beside = textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)
    if not text:
        return left
    if len(left) < len(indent):
        return left + beside[len(left) :]
    return f"{left}\n{beside}"


def show_value(node: Any) -> str:
    """A value as it is typed, with references as they are, cut if it is long."""
    text = visible(spell(value_of(node, resolve=False)))
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
