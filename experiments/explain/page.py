"""Every setting explained: `python -m experiments.explain.page` writes `docs/settings.md`."""

from collections.abc import Iterator
from pathlib import Path

from experiments.explain.choices import explain_choice
from experiments.settings.given import RUN
from experiments.settings.mistakes import CONF, list_groups
from experiments.settings.schema import (
    ROOT,
    Schema,
    Setting,
    describe_type,
    read_parts,
    read_schema,
)
from experiments.stored import kinds

PAGE = ROOT / "docs" / "settings.md"
HEAD = """# Settings

`python run.py --help` shows the settings of a command with their values, and those of another
choice with `python run.py GROUP=CHOICE --help`. This page lists the settings of every choice.
`GROUP=CHOICE` picks a file of `conf/GROUP/`, and `GROUP.SETTING=VALUE` changes one of its values.
The explanations are comments in the code; `python -m experiments.explain.page` writes this page.
"""


def write_page() -> Iterator[str]:
    """The lines of the page."""
    yield HEAD
    run = read_schema(RUN)
    assert run is not None
    groups = list_groups()
    yield "## Of a run\n"
    alone = [setting for setting in run.settings.values() if setting.name not in groups]
    yield from write_table("", alone)
    for group in groups:
        yield f"\n## {group}\n"
        yield from write_group(group, sorted((CONF / group).glob("*.yaml")))


def write_group(group: str, paths: list[Path]) -> Iterator[str]:
    """The choices of a group, and the settings of each class that they name."""
    targets = {path: find_targets(path) for path in paths}
    yield "| choice | what it is |\n|---|---|"
    for path in paths:
        yield f"| [`{path.stem}`](../conf/{group}/{path.name}) | {cell(explain_choice(path))} |"
    shared: set[str] = set()
    for target in dict.fromkeys(one for found in targets.values() for one in found):
        schema = read_schema(target)
        if schema is None:
            continue
        names = [path.stem for path, found in targets.items() if target in found]
        settings = list(schema.settings.values())
        if group == kinds.METHODS:  # what all methods have is said once
            if "lr" not in shared:
                yield "\nEvery method has this setting:\n"
                yield from write_table(group, [schema.settings["lr"]])
                shared.add("lr")
            settings = [setting for setting in settings if setting.name not in shared]
        if settings:
            yield f"\n{name_class(schema, names)}\n"
            yield from write_table(group, settings)


def find_targets(path: Path) -> list[str]:
    """The classes that a file names."""
    found = kinds.LINE.findall(path.read_text(encoding="utf-8"))
    return [kinds.current_path(target) for target in found]


def name_class(schema: Schema, names: list[str]) -> str:
    """The line above the table of a class; many choices of one class are not listed again."""
    chosen = ", ".join(f"`{name}`" for name in names)
    return f"**{chosen}**: {schema.explanation}" if len(names) <= 5 else schema.explanation


def write_table(group: str, settings: list[Setting]) -> Iterator[str]:
    """A table with a row for each setting."""
    yield "| setting | type | meaning |\n|---|---|---|"
    yield from write_rows(group, settings)


def write_rows(group: str, settings: list[Setting]) -> Iterator[str]:
    """A row for each setting, and for each that it is made of."""
    for setting in settings:
        path = f"{group}.{setting.name}" if group else setting.name
        yield f"| `{path}` | {cell(describe_type(setting))} | {cell(setting.explanation)} |"
        if (parts := read_parts(setting)) is not None:
            yield from write_rows(path, list(parts.settings.values()))


def cell(text: str) -> str:
    """A text as a cell of a table in Markdown."""
    for mark in ("\\", "|", "*", "<", "_"):
        text = text.replace(mark, f"\\{mark}")
    return text


def main() -> None:
    """Write the page."""
    PAGE.write_text("\n".join(write_page()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
