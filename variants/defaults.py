"""Methods by name, with the settings of conf/variant/NAME.yaml if none are given."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from variants.base import Variant

FOLDER = Path(__file__).parents[1] / "conf" / "variant"
TARGETS = ["all-linear"]  # where the YAML refers to the layers of a model's own config


def list_methods() -> list[str]:
    """The names of all methods."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def make_method(name: str, **settings: Any) -> Variant:
    """The method `name` with these settings, and those of its YAML for all others.

    Raises ValueError for an unknown name or setting, naming the near right one.
    """
    check_known("There is no method", name, list_methods())
    target, defaults = read_defaults(name)
    return build_method(name, import_class(target), defaults | settings)


def find_class(target: str) -> type[Variant] | None:
    """The class of the project's method with this dotted name; None if no YAML has it."""
    return next(
        (import_class(target) for name in list_methods() if read_defaults(name)[0] == target), None
    )


def read_defaults(name: str) -> tuple[str, dict[str, Any]]:
    """The dotted name of a method's class, and the settings in its YAML."""
    from omegaconf import OmegaConf  # YAML 1.2: 5e-4 is a number

    stored = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"), resolve=False)
    assert isinstance(stored, dict)
    given = {str(key): value for key, value in stored.items() if key != "_target_"}
    if "targets" in given and not isinstance(given["targets"], list):
        given["targets"] = TARGETS
    return str(stored["_target_"]), given


def import_class(target: str) -> type[Variant]:
    """The class with a dotted name that a YAML of the project has."""
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def build_method(what: str, cls: type[Variant], settings: Mapping[str, Any]) -> Variant:
    """A method of this class; raises ValueError for an unknown or a missing setting."""
    known = fields(cls)
    for key in settings:
        check_known(f"{what} has no setting", key, [field.name for field in known])
    for field in known:
        if field.default is MISSING and field.name not in settings:
            raise ValueError(f"{what} has no value for the setting '{field.name}'.")
    return cls(**settings)


def check_known(what: str, name: str, known: list[str]) -> None:
    """Raise ValueError, with the near right name, for one that is not among the known ones."""
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"{what} '{name}'.{hint} Known are: {', '.join(known)}.")
