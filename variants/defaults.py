"""Methods by name, with the settings of conf/variant/NAME.yaml where none are given."""

from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from variants.base import Variant

FOLDER = Path(__file__).parents[1] / "conf" / "variant"
TARGETS = ["all-linear"]  # where the YAML refers to the layers of a model's own config


def methods() -> list[str]:
    """The names of all methods."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def by_name(name: str, **settings: Any) -> Variant:
    """The method `name` with these settings, and those of its YAML for all others.

    Raises ValueError for an unknown name or setting, naming the near right one.
    """
    check_known("There is no method", name, methods())
    cls, defaults = read(name)
    for key in settings:
        check_known(f"{name} has no setting", key, [field.name for field in fields(cls)])
    made = defaults | settings
    required = {field.name for field in fields(cls) if field.default is MISSING}
    for key in sorted(required - made.keys()):
        raise ValueError(
            f"{name} needs a value for '{key}'; neither the call nor its YAML has one."
        )
    return cls(**made)


def read(name: str) -> tuple[type[Variant], dict[str, Any]]:
    """The class of a method, and the settings in its YAML."""
    from omegaconf import OmegaConf  # YAML 1.2: 5e-4 is a number

    stored = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"), resolve=False)
    assert isinstance(stored, dict)
    module, _, cls = str(stored.pop("_target_")).rpartition(".")
    given = {str(key): value for key, value in stored.items()}
    if "targets" in given and not isinstance(given["targets"], list):
        given["targets"] = TARGETS
    return getattr(import_module(module), cls), given


def check_known(what: str, name: str, known: list[str]) -> None:
    """Raise ValueError, with the near right name, for one that is not among the known ones."""
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"{what} '{name}'.{hint} Known are: {', '.join(known)}.")
