"""Configs of many methods on many tasks, without composing every pair of them.

Hydra takes 60 ms for one config, 40 of them even if no file is read. In this project no file
chooses another by what a third group is, so a task changes some sections whatever the method is,
and a method others: one config for each task and one for each method have all that is needed. If
that is not so, a pair is composed by itself.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.results.identity import plain, short_hash
from experiments.settings.compose import CONF, compose_config

CHOICE = re.compile(r"^\s*-\s*(override\s+)?[\w/@]+:\s.*\$\{", re.MULTILINE)


@dataclass(frozen=True)
class Composed:
    """One config: unresolved as plain data without Hydra's part, and where its runs lie."""

    sections: dict[str, Any]
    parent: Path | None  # the folder of the folders of its runs; None if they are named otherwise


@dataclass
class Composer:
    """The configs of pairs of a task and a method."""

    overrides: Callable[[str, str], tuple[str, ...]]  # of a task and a method
    tasks: Mapping[str, Sequence[str]]  # the overrides of each
    methods: Mapping[str, Sequence[str]]
    known: dict[tuple[str, str], Composed] = field(default_factory=dict)

    def pair(self, task: str, method: str) -> Composed:
        """The config of one pair: the sections of the method's, and all others of the task's."""
        first, usual = next(iter(self.tasks)), next(iter(self.methods))
        of_tasks = find_touched("task", (*self.tasks[first], *self.tasks[task]))
        of_methods = find_touched("variant", (*self.methods[usual], *self.methods[method]))
        if of_tasks is None or of_methods is None or not separable():
            return self.exact(task, method)
        base = self.exact(first, usual)
        by_task, by_method = self.exact(task, usual), self.exact(first, method)
        of_tasks |= find_changed(by_task, base)
        of_methods |= find_changed(by_method, base)
        parent = merge_paths(by_task.parent, by_method.parent, base.parent)
        if of_tasks & of_methods or parent is None:
            return self.exact(task, method)
        sections = by_method.sections
        own = {name: sections[name] for name in of_methods & sections.keys()}
        kept = {k: v for k, v in by_task.sections.items() if k not in of_methods}
        return Composed(kept | own, parent)

    def exact(self, task: str, method: str) -> Composed:
        """The config of one pair as Hydra composes it."""
        if (task, method) not in self.known:
            self.known[task, method] = compose(self.overrides(task, method))
        return self.known[task, method]


def find_touched(group: str, overrides: Sequence[str]) -> set[str] | None:
    """The sections that overrides set; None if they choose another file than their group's."""
    keys = [text.lstrip("+~").partition("=")[0] for text in overrides]
    others = [key for key in keys if key != group]
    if any("." not in key or "@" in key or "/" in key for key in others):
        return None
    return {key.partition(".")[0] for key in others}


def compose(overrides: tuple[str, ...]) -> Composed:
    """One config as Hydra composes it."""
    config = compose_config(*overrides)
    return Composed(plain(config, resolve=False), parent_of(config))


def parent_of(config: DictConfig) -> Path | None:
    """The folder that the folders of a config's runs lie in; None if they are named otherwise."""
    HydraConfig.instance().set_config(config)
    folder = Path(config.hydra.run.dir)
    settings = plain(config, resolve=True)
    usual = f"s{settings['seed']}-{short_hash(settings)}"
    return folder.parent if folder.name == usual else None


def find_changed(one: Composed, base: Composed) -> set[str]:
    """The sections in which a config is another than the base."""
    names = one.sections.keys() | base.sections.keys()
    return {name for name in names if one.sections.get(name, ...) != base.sections.get(name, ...)}


def merge_paths(first: Path | None, second: Path | None, base: Path | None) -> Path | None:
    """The path that has of each part what is another than in the base; None if both have."""
    if first is None or second is None or base is None:
        return None
    parts = list(zip(first.parts, second.parts, base.parts, strict=False))
    lengths = {len(path.parts) for path in (first, second, base)}
    if len(lengths) > 1 or any(a != c and b != c and a != b for a, b, c in parts):
        return None
    return Path(*(a if b == c else b for a, b, c in parts))


@cache
def separable() -> bool:
    """Return whether no file of the project's own chooses another by what a third group is."""
    texts = (path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml"))
    return not any(CHOICE.search(text) for text in texts)
