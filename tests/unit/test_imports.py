"""Who may import whom, what may be imported at all, and where a method may be named."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ROOMS = ("run", "experiments", "variants", "analysis", "tests")
# What a room may import of the project; a name stands for itself and for all that lies in it.
ALLOWED: dict[str, tuple[str, ...]] = {
    "run": ("experiments", "analysis.report.verdict"),
    "experiments": ("experiments", "variants.base", "variants.summary"),
    "variants": ("variants",),
    "analysis": ("analysis", "experiments.disk.files", "experiments.stored", "experiments.metrics"),
}
# The one part of the analysis that opens adapters, and what it would else write again.
EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "analysis/geometry.py": ("experiments.adapters", "variants"),
    "analysis/report/audits.py": ("experiments.study.audit",),
    "analysis/report/choices.py": ("experiments.study.race",),
}
# What a file of the methods may import beside torch, inside a function that is asked for it.
OPTIONAL = {"variants/quantize.py": {"bitsandbytes"}}
# What files beside the methods may import, and not before it is asked for.
BESIDE = {
    "variants/defaults.py": {"omegaconf"},
    "variants/saving.py": {"safetensors"},
    "variants/hf.py": {"transformers", "safetensors"},
}
METHODS = {path.stem for path in (ROOT / "conf" / "variant").glob("*.yaml")}
# Methods whose name is an English word as well; only a string that is just this word counts.
WORDS = {"full", "miss", "road"}
SETTINGS = {"rslora"}  # a method whose name is that of a setting of others, too
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]


def files(room: str) -> list[Path]:
    """The Python files of one room; `run` is a single one."""
    return [ROOT / "run.py"] if room == "run" else sorted((ROOT / room).rglob("*.py"))


def imported(path: Path, tree: ast.Module | None = None) -> Iterator[str]:
    """Dotted names of everything a file imports, also inside functions; or a part of its code."""
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import; name the package."
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in allowed)


def third_party(path: Path) -> set[str]:
    """The packages from outside that a file imports."""
    names = {name.partition(".")[0] for name in imported(path)}
    tests = ROOT / "tests"
    beside = {file.stem for file in (*tests.iterdir(), *tests.rglob("*.py"))}
    beside = beside if path.is_relative_to(tests) else set()
    return names - sys.stdlib_module_names - set(ROOMS) - beside


def declared(*extras: str) -> list[Requirement]:
    """What the project, with these extras, asks for."""
    groups = [PROJECT["dependencies"], *(EXTRAS[extra] for extra in extras)]
    found = [Requirement(line) for group in groups for line in group]
    own = {extra for wanted in found if wanted.name == PROJECT["name"] for extra in wanted.extras}
    found += [Requirement(line) for extra in own for line in EXTRAS[extra]]
    return [wanted for wanted in found if wanted.name != PROJECT["name"]]


def list_modules() -> dict[str, Path]:
    """The project's modules below the tests, packages among them."""
    paths = [path for room in ROOMS if room != "tests" for path in files(room)]
    dotted = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in dotted.items()}


def get_room(path: Path) -> str:
    """The folder of a file; what a top package offers its users, and `run.py`, stand alone."""
    place = path.relative_to(ROOT)
    offers = len(place.parts) == 1 or (len(place.parts) == 2 and path.name == "__init__.py")
    return str(place if offers else place.parent)


def find_circle(node_of: Callable[[Path], str]) -> list[str]:
    """Nodes that import each other in a ring, imports in functions and for types included."""
    modules = list_modules()
    graph: dict[str, set[str]] = {}
    for path in modules.values():
        own = graph.setdefault(node_of(path), set())
        for name in imported(path):
            module = name if name in modules else name.rpartition(".")[0]
            if module in modules:
                own.add(node_of(modules[module]))
        own.discard(node_of(path))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def canonical(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def code(path: Path) -> str:
    """A file's code without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def test_test_modules_share_helpers_and_import_no_other() -> None:
    """The mutants excepted, which show that tests of others fail."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        if not path.name.startswith("test_mutants"):
            others = [name for name in imported(path) if name.startswith("test_")]
            assert not others, f"{path.name} imports {', '.join(others)}."


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    for path in files(room):
        place = path.relative_to(ROOT).as_posix()
        inside = [name for name in imported(path) if name.partition(".")[0] in ROOMS]
        allowed = (*ALLOWED[room], *EXCEPTIONS.get(place, ()))
        wrong = [name for name in inside if not within(name, allowed)]
        assert not wrong, f"{place} must not import {', '.join(wrong)}."


@pytest.mark.parametrize("node_of", [str, get_room], ids=["files", "folders"])
def test_no_imports_run_in_a_circle(node_of: Callable[[Path], str]) -> None:
    circle = find_circle(node_of)
    assert not circle, " imports ".join(reversed(circle))


def test_variants_need_nothing_but_torch() -> None:
    for path in files("variants"):
        place = path.relative_to(ROOT).as_posix()
        assert third_party(path) - {"torch"} == OPTIONAL.get(place, BESIDE.get(place, set())), path


@pytest.mark.parametrize(
    "module",
    ["experiments.study.__main__", "experiments.results.result", "experiments.settings.compose"],
)
def test_who_looks_at_results_does_not_wait_for_what_trains(module: str) -> None:
    heavy = {"torch", "transformers", "pandas", "scipy"}
    code = f"import sys, {module}; print({heavy!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_methods_are_imported_with_torch_alone() -> None:
    packages = set().union(*BESIDE.values(), *OPTIONAL.values())
    code = f"import sys, variants, variants.lora; print({packages!r} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr


def test_what_is_optional_is_imported_inside_a_function_and_is_an_extra() -> None:
    for place, optional in OPTIONAL.items():
        tree = ast.parse((ROOT / place).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.body = [ast.Pass()]
        names = {name.partition(".")[0] for name in imported(ROOT / place, tree)}
        assert not names & optional, f"{place} imports {names & optional} at once."
        extras = canonical(declared(*(extra for extra in EXTRAS if extra != "test")))
        assert optional <= extras - canonical(declared()), place


def test_peft_is_imported_by_tests_alone() -> None:
    for room in ALLOWED:
        for path in files(room):
            assert "peft" not in third_party(path), path


@pytest.mark.parametrize("room", ROOMS)
def test_every_import_is_a_declared_dependency(room: str) -> None:
    known = canonical(declared(*(e for e in EXTRAS if room == "tests" or e != "test")))
    distributions = packages_distributions()
    for path in files(room):
        for name in third_party(path):
            names = {canonicalize_name(n) for n in distributions.get(name, [name])}
            assert names & known, f"{path} imports {name}, which pyproject.toml does not declare."


def test_no_code_above_the_methods_names_one() -> None:
    names = METHODS - WORDS - SETTINGS
    words = [f"'{word}'" for word in WORDS] + [rf"\b{name}\b" for name in names]
    pattern = re.compile("|".join(words), re.IGNORECASE)
    for path in [*files("run"), *files("experiments"), ROOT / "variants" / "base.py"]:
        text = code(path).replace(PROJECT["name"], "")
        assert not pattern.findall(text), f"{path} names {pattern.findall(text)}."


def test_pythons_on_which_hydra_fails_are_excluded() -> None:
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert all(version in allowed for version in ("3.11.0", "3.12.4", "3.13.9"))
    assert not any(version in allowed for version in ("3.10.14", "3.14.0", "3.15.1"))
    # When this is a text that takes parameters, as argparse there wants it, the bound may go.
    parser = get_args_parser()
    helps = [action.help for action in parser._actions]
    with pytest.raises(TypeError):
        [text % {"prog": "run.py", "default": None} for text in helps if text is not None]


def test_every_pinned_version_lies_in_its_declared_range() -> None:
    pins = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in PINS}
    for wanted in declared(*EXTRAS):
        assert pins[canonicalize_name(wanted.name)] in wanted.specifier, str(wanted)


@pytest.mark.parametrize("extra", ["gguf", "smollm2"])
def test_what_reads_gguf_files_brings_both_libraries_for_it(extra: str) -> None:
    """transformers asks for accelerate as well, which nothing else that runs need brings."""
    assert {Requirement(text).name for text in EXTRAS[extra]} >= {"gguf", "accelerate"}
