"""The notebooks run from top to bottom, show what they speak of, and keep small outputs."""

import ast
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbstripout import strip_output
from stored_runs import study

from analysis import allocation, compare, geometry
from analysis.cost import front, table
from analysis.family import Rule
from analysis.report import words
from analysis.report.comparisons import comparisons
from analysis.report.material import gather
from experiments.results.result import Result, read_result
from experiments.settings.compose import compose_config
from experiments.settings.config import read

ROOT = Path(__file__).parents[2]
PATHS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
VARIANTS = ROOT / "conf/variant"
WITH_PARAMETERS = [number for number in PATHS if number != "00"]
IMPORTS = {"numpy", "pandas", "matplotlib", "torch"}
# What the packages offer, and their modules that docs/report.md and docs/extending.md speak of.
PUBLIC = {
    "analysis", "analysis.allocation", "analysis.decisions", "analysis.figures",
    "analysis.geometry", "analysis.matrices", "analysis.paired", "experiments", "variants",
    "variants.base", "variants.layerwise", "variants.promises",
}  # fmt: skip
SUITE = {"experiments.mini"}  # the texts of the built-in suite, which the first notebook shows
METHODS = {"vera": 0.8, "lora": 0.86, "dora": 0.865, "full": 0.93}  # of the stored study
ROW, CELL = re.compile(r"<tr.*?>(.*?)</tr>", re.S), re.compile(r"<t[dh].*?>(.*?)</t[dh]>", re.S)
TINY = [
    "task=rte", "data.train=32", "data.dev=16", "train.epochs=2", "train.batch_size=16",
    "record.snapshots=4", "compute.device=cpu", "tracker.mode=disabled",
    "hydra.run.dir=outputs/${hydra.sweep.subdir}",
]  # fmt: skip


def notebook(number: str) -> NotebookNode:
    return nbformat.read(PATHS[number], as_version=nbformat.NO_CONVERT)


def codes(number: str) -> list[NotebookNode]:
    return [cell for cell in notebook(number).cells if cell.cell_type == "code"]


def python(source: str) -> ast.Module:
    """A cell without the lines that speak to IPython."""
    return ast.parse(re.sub(r"^%.*$", "", source, flags=re.MULTILINE))


def parameters(number: str) -> dict[str, Any]:
    """The constants of the first cell of code."""
    values: dict[str, Any] = {}
    exec(codes(number)[0].source, values)
    return {name: value for name, value in values.items() if name.isupper()}


# --- As they are kept --------------------------------------------------------------------------


@pytest.mark.parametrize("number", PATHS)
def test_a_notebook_is_kept_as_the_hook_leaves_it(number: str) -> None:
    found = notebook(number)
    nbformat.validate(found)
    assert (found.nbformat, found.nbformat_minor) == (4, 5)
    stripped = strip_output(
        notebook(number), keep_output=True, keep_count=False, keep_id=False,
        extra_keys=["metadata.signature", "metadata.widgets", "cell.metadata.collapsed",
                    "cell.metadata.ExecuteTime", "cell.metadata.execution",
                    "cell.metadata.heading_collapsed", "cell.metadata.hidden",
                    "cell.metadata.scrolled"],
    )  # fmt: skip
    assert found == stripped


@pytest.mark.parametrize("number", PATHS)
def test_what_a_notebook_shows_is_small_and_names_no_machine(number: str) -> None:
    outputs = [output for cell in codes(number) for output in cell.outputs]
    assert outputs, "python docs/tools/execute_notebooks.py keeps what it shows."
    assert PATHS[number].stat().st_size < 500_000
    assert not [output for output in outputs if output.get("name") == "stderr"]
    text = json.dumps([{**output.get("data", {}), "image/png": ""} for output in outputs])
    text += json.dumps([output.get("text", "") for output in outputs])
    assert not re.search(r"[\" ](/\w+){2}|[A-Z]:\\\\\\\\", text), "no path of a machine"


@pytest.mark.parametrize("number", PATHS)
def test_a_notebook_imports_what_lies_here_and_the_usual(number: str) -> None:
    allowed = IMPORTS | sys.stdlib_module_names
    for cell in codes(number):
        own = {Path(name).stem for name in re.findall(r"^%%writefile (.+\.py)$", cell.source, re.M)}
        allowed |= own
        if cell.source.startswith("%%writefile") and not own:
            continue
        for node in ast.walk(python(cell.source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            public = PUBLIC | (SUITE if number == "00" else set())
            others = {name.partition(".")[0] for name in names if name not in public}
            assert others <= allowed, names


@pytest.mark.parametrize("number", WITH_PARAMETERS)
def test_a_notebook_is_short_and_starts_with_constants(number: str) -> None:
    first, *others = codes(number)
    assert first.metadata.tags == ["parameters"] and len(others) < 12
    for line in ast.parse(first.source).body:
        assert isinstance(line, ast.Assign)
        ast.literal_eval(line.value)
    for cell in others:
        if not cell.source.startswith("%%writefile"):
            defined = [n for n in ast.walk(python(cell.source)) if isinstance(n, ast.FunctionDef)]
            assert not defined, "what is worth a function is worth a test"


@pytest.mark.parametrize("number", WITH_PARAMETERS)
def test_what_a_notebook_asks_for_by_default_is_there(number: str) -> None:
    given = parameters(number)
    methods = given.get("METHODS", [])
    assert {f"{name}.yaml" for name in methods} <= {p.name for p in VARIANTS.glob("*.yaml")}
    # Methods without overrides of their own share one composition, which takes a moment.
    own = {str(o): (n, o) for n, o in methods.items()} if isinstance(methods, dict) else {}
    for name, overrides in (own or {"": ("lora", [])}).values() if "SETTINGS" in given else ():
        run = read(compose_config(f"variant={name}", *overrides, *given["SETTINGS"]))
        assert run.train.epochs < 20
    for folder in (given.get("RUNS"), given.get("STUDY")):
        assert folder is None or (PATHS[number].parent / folder).is_dir()


# --- Executed ----------------------------------------------------------------------------------


@dataclass
class Shown:
    """What the cells of a notebook have shown."""

    cells: list[NotebookNode]

    @property
    def outputs(self) -> list[NotebookNode]:
        return [output for cell in self.cells for output in cell.get("outputs", [])]

    @property
    def text(self) -> str:
        """All that was printed, and values as text, with plain spaces."""
        parts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in self.outputs]
        return "\n".join(parts).replace(words.NO_BREAK, " ")

    def table(self, head: str) -> list[dict[str, str]]:
        """The rows of the one table that has this column."""
        found = [o.data["text/html"] for o in self.outputs if "text/html" in o.get("data", {})]
        tables = [[CELL.findall(row) for row in ROW.findall(html)] for html in found]
        ((heads, *rows),) = (table for table in tables if head in table[0])
        return [dict(zip(heads, row, strict=True)) for row in rows]

    @property
    def images(self) -> int:
        return sum("image/png" in output.get("data", {}) for output in self.outputs)


Execute = Callable[..., Shown]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of the notebooks, with a study in it."""
    folder = tmp_path_factory.mktemp("notebooks")
    study(folder / "study", METHODS, ["sst2", "cola"], seeds=6, examples=300)
    return folder


@pytest.fixture(scope="module")
def execute(folder: Path) -> Iterator[Execute]:
    """Executes a notebook with other parameters.

    One kernel for all, since it takes longer to import torch than to run most of them; names are
    forgotten in between.
    """
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=300, kernel_name="python3")
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    environment |= {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(folder / "ipython"),
        "HF_HUB_OFFLINE": "1", "HTTPS_PROXY": "http://127.0.0.1:9",  # nobody is there
    }  # fmt: skip

    def run(number: str, **given: Any) -> Shown:
        found = notebook(number)
        first = next(cell for cell in found.cells if cell.cell_type == "code")
        assert parameters(number).keys() == given.keys()
        first.source = "\n".join(f"{name} = {value!r}" for name, value in given.items())
        found.cells.append(nbformat.v4.new_code_cell("%reset -f"))
        client.nb = found
        for place, cell in enumerate(found.cells):
            client.execute_cell(cell, place)
        return Shown(found.cells)

    with client.setup_kernel(cwd=str(folder), env=environment):
        yield run


def finished(folder: Path, *names: str) -> list[Result]:
    """The results of these methods on the built-in suite."""
    paths = sorted((folder / "outputs/mini").rglob("result.json"))
    results = [read_result(path.parent) for path in paths]
    return [result for result in results if result.label["variant"] in names]


def test_the_first_comparison_is_put_into_words(execute: Execute, folder: Path) -> None:
    shown = execute(
        "01", METHODS=["lora", "dora"], SEEDS=[0, 1, 2], SETTINGS=TINY, STUDY=str(folder / "study")
    )
    material = gather(*(result.folder for result in finished(folder, "lora", "dora")))
    (one,) = comparisons(material, Rule())
    assert len(one.runs) == 6
    told = [line.replace(words.NO_BREAK, " ") for line in words.describe_comparison(one)]
    assert "The two methods cannot be told apart." in told
    assert any("true difference" in line for line in told)
    assert [line for line in told if line not in shown.text] == []
    assert "Nothing can be decided.\nThe exact test has 3 pairs of runs" in shown.text
    assert re.search(r"\n5 +0\.0625 +0\.0625\n", shown.text)  # the floor of five seeds
    assert "2 comparisons in" in shown.text
    assert shown.text.count("full is better than all others.") == 3  # two tasks, and over both
    assert shown.images == 1


def test_five_cells_lead_to_a_verdict(execute: Execute, folder: Path) -> None:
    assert len(codes("06")) == 5
    names, seeds = ["lora", "dora"], [0, 1, 2]
    shown = execute("06", METHODS=names, SEEDS=seeds, SETTINGS=TINY)
    runs = [run for run in finished(folder, *names) if run.seed in seeds]
    found = compare(*(run.folder for run in runs))
    (text,) = found.answers.values()
    html = [o.data["text/html"] for o in shown.outputs if "text/html" in o.get("data", {})]
    assert any(text.replace("'", "&#x27;") in page for page in html)
    assert sum(f">{run.title}<" in page for run in runs for page in html) == 1  # the first result
    (row,) = shown.table("difference")
    assert {row["a"], row["b"]} == set(names)
    assert shown.images == 2


def test_magnitude_and_direction_are_set_against_each_other(execute: Execute, folder: Path) -> None:
    names = {"full": ["variant.lr=6e-5"], "lora": [], "dora": []}
    shown = execute("02", METHODS=names, SEEDS=[0], SETTINGS=TINY, MATRICES=["query", "value"])
    runs = [run for run in finished(folder, *names) if run.seed == 0]
    moved = geometry.movements(run.folder for run in runs)
    found = {(row["method"], row["matrix"]): row for row in shown.table("correlation")}
    assert found.keys() == {(name, matrix) for name in names for matrix in ("query", "value")}
    for (method, matrix), row in found.items():
        points = moved[(moved["method"] == method) & (moved["matrix"] == matrix)]
        r = float(np.corrcoef(points["direction"], points["magnitude"])[0, 1])
        assert len(points) == int(row["points"]) == 16  # four layers, four snapshots
        assert float(row["correlation"]) == pytest.approx(r, abs=0.006)
        assert -1 <= float(row["low"]) <= float(row["high"]) <= 1
    assert shown.images == 5


def test_allocations_are_held_against_the_truth(execute: Execute, folder: Path) -> None:
    settings = [
        "task=planted", "variant.targets=[query,value]", "record.log_every=1",
        *(setting for setting in TINY if setting != "task=rte"),
    ]  # fmt: skip
    names = {
        "adalora": ["variant.rank=2", "variant.target_rank=1"],
        "lora_drop": ["variant.share=1", "variant.steps=2"],
    }
    shown = execute("03", METHODS=names, SEEDS=[0], SETTINGS=settings)
    assert "encoder.layer.3.attention.self.value" in shown.text
    found = {row["method"]: row for row in shown.table("seed")}
    for result in finished(folder, *names):
        known, row = allocation.against_truth(result.folder), found[result.label["variant"]]
        assert float(row["precision"]) == pytest.approx(known.precision, abs=0.006)
        assert float(row["recall"]) == pytest.approx(known.recall, abs=0.006)
        assert row["chance"] == "0.25"
    assert shown.images == 4


def test_costs_stand_beside_scores(execute: Execute, folder: Path) -> None:
    costs = ["trained", "train_seconds"]
    shown = execute("04", RUNS=str(folder / "study"), COSTS=costs)
    assert shown.images == 2  # tasks
    assert "AMD EPYC" in shown.text
    tested = gather(folder / "study").tested
    for task in ("local/sst2", "local/cola"):
        costs = table(tested[tested["task"] == task])
        cheapest = costs[front(costs, "trained")].sort_values("trained")["variant"]
        rows = [row for row in shown.table("best") if row["task"] == task]
        assert [row["best"] for row in rows if row["budget"] == "parameters"] == cheapest.tolist()
    assert [row["trials"] for row in shown.table("trials")] == ["3"] * 2 * len(METHODS)


def test_published_costs_are_read(execute: Execute) -> None:
    published = ROOT / "results/minilm_glue"
    shown = execute("04", RUNS=str(published), COSTS=parameters("04")["COSTS"])
    found = {(row["task"], row["stage"]): int(row["runs"]) for row in shown.table("runs")}
    assert found["local/sst2", "select"] >= 16


def test_a_method_of_ones_own_is_checked_trained_and_compared(
    execute: Execute, folder: Path
) -> None:
    shown = execute("05", FOLDER="own", SEEDS=[0, 1], SETTINGS=TINY)
    assert "every promise is kept" in shown.text
    assert (folder / "own/variant/ia3.yaml").is_file()
    runs = finished(folder, "ia3")
    assert [run.seed for run in runs] == [0, 1]
    trained = {row["method"]: row["trained"] for row in shown.table("operations")}
    assert trained["ia3"] == f"{runs[0].cost['parameters']['trained']:,}"
    (one,) = comparisons(gather(*(run.folder for run in finished(folder, "ia3", "lora"))), Rule())
    assert words.describe_comparison(one)[0] in shown.text
