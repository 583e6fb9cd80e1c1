"""The page on the Python functions: what the packages export, by their own docstrings."""

import ast

from repository import ROOT

PLACE = "python.md"
# Each package with the module that its functions are imported from.
MODULES = {"variants": "variants", "experiments": "experiments.api", "analysis": "analysis.front"}
OPENING = """# Python functions

What the three packages export. [In a notebook](notebooks-and-trainer.md) shows them at work, and
`help(variants.adapt)` prints the same text. All other names may change between minor versions.
"""


def write_page() -> str:
    """The page in Markdown; the plugin mkdocstrings fills in what stands behind `:::`."""
    return "\n".join([OPENING, *map(write_section, MODULES)])


def write_section(package: str) -> str:
    """The part on one package."""
    entries = [
        f"::: {MODULES[package]}.{name}\n    options:\n      heading: {package}.{name}\n"
        for name in list_exports(package)
    ]
    return "\n".join([f"## {package}\n", *entries])


def list_exports(package: str) -> list[str]:
    """The names in a package's `__all__`, read without importing it."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError(f"{package}/__init__.py has no __all__.")
