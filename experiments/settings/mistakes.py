"""Misspelt settings, groups and choices: one line that names the near right one."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from experiments.stored.shown import visible

CONF = Path(__file__).parents[2] / "conf"
UNKNOWN = re.compile(r"Could not (?:override|delete from config\.) '([^']+)'")
NEW = re.compile(r"Key '([^']+)' is not in struct")
KIND = re.compile(r"Error merging override (.*)\nCannot merge ")
CHOICE = re.compile(r"Could not find '(?:.*/)?([^/']+)/([^/']+)'")
MOST = 12  # choices that are listed in one line

Compose = Callable[[Sequence[str]], DictConfig]


def explain(error: BaseException, overrides: Sequence[str], compose: Compose) -> str | None:
    """One line on what Hydra refuses, for a name that there is not; None for any other error.

    `compose` gives the config for other overrides, whose settings are the right ones.
    """
    if isinstance(error, MissingConfigException) and error.options:
        return explain_choice(str(error), error.options)
    if not isinstance(error, ConfigCompositionException):
        return None
    if (other := KIND.search(f"{error}\n{error.__cause__}")) is not None:
        key, text = map(visible, (key_of(other[1]), other[1]))
        return f"{text} is of another kind than what is there: type '~{key}' '+{text}' instead."
    if (unknown := UNKNOWN.search(str(error))) is None:
        return None
    key = unknown[1].split("@")[0]
    value = next((text.partition("=")[2] for text in overrides if key_of(text) == key), "")
    config = compose_known(key, overrides, compose)
    known = list(list_settings(config))
    if key in known and any("." in name for name in split_key(key, config)):
        return f"Type {visible(nest(key, config, value))}: a name on the way there has a dot."
    if key in known and (new := NEW.search(str(error.__cause__))) is not None:
        return f"{visible(key)} has no '{visible(new[1])}' yet: +{key}={visible(value)} adds it."
    near = suggest(key, known)
    hint = f" Did you mean {' or '.join(map(visible, near))}?" if near else ""
    if near and near[0] in list_groups() and value:
        hint = f" Did you mean {near[0]}={visible(value)}?"
    section = key.rpartition(".")[0]
    beside = [path for path in known if section and path.rpartition(".")[0] == section]
    if not near and beside:
        hint = f" It is one of {', '.join(beside)}."
    return f"There is no setting {visible(key)}.{hint} python run.py --help explains all."


def explain_choice(message: str, options: Sequence[str]) -> str | None:
    """One line on a file of a group that there is not."""
    if (found := CHOICE.search(message)) is None:
        return None
    group, name = found.groups()
    near = get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f" Did you mean {group}={near[0]}?" if near else ""
    rest = f"It is one of {', '.join(options)}."
    if len(options) > MOST:
        rest = f"python -m experiments.list {group} explains all {len(options)}."
    return f"There is no {group} '{visible(name)}'.{hint} {rest}"


def suggest(key: str, known: Sequence[str]) -> list[str]:
    """The settings or groups that were probably meant by a key."""
    names = [*known, *list_groups()]
    section, _, name = key.rpartition(".")
    if not section:  # a setting without its section, or a group
        near = get_close_matches(key, names, n=1, cutoff=0.6)
        inside = [path for path in known if path.endswith(f".{key}")]
        return inside[:3] or near or [p for p in known if close(p.rpartition(".")[2], key)][:3]
    beside = {
        path.removeprefix(f"{section}."): path for path in known if path.startswith(f"{section}.")
    }
    if not beside:
        return get_close_matches(key, names, n=1, cutoff=0.6)
    return [beside[name] for name in get_close_matches(name, beside, n=1, cutoff=0.5)]


def nest(key: str, config: DictConfig, value: str) -> str:
    """An override of a setting that lies behind a name with a dot: `a={b.c: {d: VALUE}}`."""
    names = split_key(key, config)
    plain = next(place for place, name in enumerate(names) if "." in name)
    for name in reversed(names[plain:]):
        value = f"{{{name}: {value}}}"
    return f"'{'.'.join(names[:plain])}={value}'"


def split_key(key: str, node: object) -> list[str]:
    """The names on the way to a setting, some of which may have dots."""
    known = map(str, node) if isinstance(node, DictConfig) else ()
    name = next((name for name in known if f"{key}.".startswith(f"{name}.")), key)
    rest = key[len(name) + 1 :]
    inside = node._get_node(name) if isinstance(node, DictConfig) else None
    return [name, *(split_key(rest, inside) if rest else ())]


def close(one: str, other: str) -> bool:
    """Return whether two words are spelt alike."""
    return bool(get_close_matches(one, [other], cutoff=0.7))


def compose_known(key: str, overrides: Sequence[str], compose: Compose) -> DictConfig:
    """The config for these overrides without those of a key, or else for none."""
    for rest in ([text for text in overrides if key_of(text) != key], []):
        try:
            return compose(rest)
        except HydraException:  # there is more that is wrong
            continue
    return OmegaConf.create()


def key_of(override: str) -> str:
    """The setting or group that an override is about."""
    return override.lstrip("+~").partition("=")[0].split("@")[0]


def list_settings(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """The dotted key of every setting of a config, those of Hydra left out."""
    for key in config:
        path = f"{prefix}{key}"
        if path == "hydra" or str(key).startswith("_"):
            continue
        node = config._get_node(str(key))
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_interpolation():
            yield from list_settings(node, f"{path}.")
        if prefix or not isinstance(node, DictConfig):
            yield path


def list_groups() -> Iterable[str]:
    """The groups of settings, each a folder."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
