"""Settings as the sources describe them: equal to the dataclasses, explained, and written down."""

from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args

import pytest
from omegaconf import OmegaConf

from experiments.explain.choices import explain_choices, explain_metrics
from experiments.explain.page import PAGE, write_page
from experiments.metrics.base import list_metrics
from experiments.settings.compose import CONF, compose_config
from experiments.settings.config import describe, read
from experiments.settings.given import check_config
from experiments.settings.mistakes import list_groups
from experiments.settings.schema import read_schema, stand_in
from experiments.settings.sections import build, check, describe_section
from experiments.stored import kinds

TARGETS = sorted({t for section in kinds.table().values() for t in section.values()})


def same_type(one: Any, other: Any) -> bool:
    """Whether two types are equal, but for stand-ins in the place of classes."""
    if is_dataclass(one) and is_dataclass(other):
        return one.__name__ == other.__name__
    inside = list(zip(get_args(one), get_args(other), strict=True))
    return all(same_type(*pair) for pair in inside) if inside else one == other


@pytest.mark.parametrize("target", TARGETS)
def test_a_class_read_from_its_source_has_the_fields_of_the_class(target: str) -> None:
    own, read_from_source = kinds.load("section", target), stand_in(target)
    assert is_dataclass(own) and read_from_source is not None
    theirs = fields(read_from_source)
    assert [f.name for f in fields(own)] == [f.name for f in theirs]
    for mine, its in zip(fields(own), theirs, strict=True):
        assert same_type(mine.type, its.type), mine.name
        default = its.default_factory() if its.default_factory is not MISSING else MISSING
        assert mine.default == default, mine.name


@pytest.mark.parametrize("target", TARGETS)
def test_every_setting_and_every_class_is_explained(target: str) -> None:
    schema = read_schema(target)
    assert schema is not None and schema.explanation
    for setting in schema.settings.values():
        assert setting.explanation, f"{target}.{setting.name} has no comment beside it."


@pytest.mark.parametrize("name", explain_choices("variant"))
def test_a_checked_method_is_described_as_the_one_that_is_built(name: str) -> None:
    node = OmegaConf.load(CONF / "variant" / f"{name}.yaml")
    if "targets" in node:
        node.targets = ["query", "value"]
    checked = check("variant", node)
    assert kinds.with_kinds(checked) == describe_section(build("variant", node))


@pytest.mark.parametrize("task", explain_choices("task"))
def test_a_checked_run_is_described_as_the_one_that_is_read(task: str) -> None:
    cfg = compose_config(f"task={task}", "data=mini")
    assert kinds.with_kinds(check_config(cfg)) == describe(read(cfg))


def test_a_class_from_elsewhere_is_left_to_its_import() -> None:
    assert read_schema("elsewhere.method.Method") is None
    assert check("variant", OmegaConf.create({"_target_": "elsewhere.Method", "x": 1})) is None


@pytest.mark.parametrize("group", list_groups())
def test_every_choice_has_a_line(group: str) -> None:
    lines = explain_choices(group)
    assert lines and all(lines.values()), [name for name, line in lines.items() if not line]


def test_every_metric_has_a_line() -> None:
    assert explain_metrics().keys() == list_metrics().keys()
    assert all(explain_metrics().values())


def test_the_page_of_settings_is_that_of_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == "\n".join(write_page()) + "\n", (
        "docs/settings.md is not of this code: python -m experiments.explain.page writes it."
    )
