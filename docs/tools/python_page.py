"""The page on the Python functions: what the packages export, by their own docstrings."""

import ast

from repository import ROOT

PLACE = "python.md"
# Where a package's functions are defined, if it imports them only when they are asked for.
LAZY = {"experiments": "experiments.api", "analysis": "analysis.front"}
OPENING = """# Python functions

What the three packages export. [In a notebook](notebooks-and-trainer.md) shows them at work, and
`help(variants.adapt)` prints the same text. All other names may change between minor versions.
"""


def write_page() -> str:
    """The page in Markdown; the plugin mkdocstrings fills in what stands behind `:::`."""
    return "\n".join([OPENING, *map(write_section, ("variants", *LAZY))])


def write_section(package: str) -> str:
    """The part on one package."""
    entries = [
        f"::: {module}.{name}\n    options:\n      heading: {package}.{name}\n"
        for name, module in list_exports(package).items()
    ]
    return "\n".join([f"## {package}\n", *entries])


def list_exports(package: str) -> dict[str, str]:
    """The names in a package's `__all__`, each with its module, read without importing them."""
    body = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")).body
    modules = {
        alias.name: node.module or ""
        for node in body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    (names,) = (
        ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return {name: LAZY.get(package) or modules[name] for name in names}
