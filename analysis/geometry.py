"""Show how a training changed every matrix: delta W of a run, an adapter or another library's file.

    python -m analysis.geometry PATH [--alpha 16] [--against OTHER] [--out FOLDER]
    python -m analysis.geometry RUN RUN [RUN ...]

The first prints the sizes and ranks of all changes and writes tables and figures. PATH is a
finished run or an adapter's folder, a folder of PEFT's, or a file of loralib's, which needs
--alpha. The last two come without the pretrained weights, and so without what compares with them.
The second sets magnitude against direction over the snapshots of several runs, by method.
"""

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
import torch.nn as nn
from matplotlib.axes import Axes
from rich.console import Console
from torch import Tensor

from analysis import figures, matrices
from analysis.allocation import shown
from analysis.matrices import Change
from experiments.adapters.factors import loralib_factors, peft_factors
from experiments.adapters.peft_format import CONFIG
from experiments.adapters.saved import ABOUT, Adapter, load, on_base, read_adapter, tensors
from experiments.disk.files import hash_file
from experiments.stored import kinds, result
from experiments.stored.shown import fail, without_formulas
from variants.base import AdapterLayer, adapter_layers, at_least_float32

SNAPSHOT = re.compile(r"step-(\d+)")


def changes(
    path: str | Path,
    alpha: float | None = None,
    base: str | None = None,
    other: kinds.Other = kinds.refuse,
) -> dict[str, Change]:
    """The change of every matrix, by name of the layer.

    `other` finds methods that are none of the project's. Raises ValueError if there is no
    adapter at `path`, or alpha is missing or not asked for.
    """
    path = Path(path)
    if path.is_file():
        if alpha is None:
            raise ValueError(f"{path} does not say alpha, which scales the update: give --alpha.")
        return bare(loralib_factors(path, alpha))
    if alpha is not None:
        raise ValueError(f"--alpha is for loralib's files; {path} says its own.")
    if (path / CONFIG).is_file() and not (path / ABOUT).is_file():
        return bare(peft_factors(path))
    return of_adapter(on_base(read_adapter(path, other), base))


def checkpoints(
    folder: str | Path, base: str | None = None, other: kinds.Other = kinds.refuse
) -> Iterator[tuple[int, dict[str, Change]]]:
    """The changes at each snapshot of a run (record.snapshots), with its step.

    Raises ValueError for a run that kept none.
    """
    adapter = on_base(read_adapter(Path(folder), other), base)
    paths = sorted((Path(folder) / "snapshots").glob("step-*.safetensors"))
    if not paths:
        raise ValueError(f"{folder} holds no snapshots; record.snapshots=4 keeps four.")
    digests = result.read(Path(folder) / result.NAME)["files"]
    for path in paths:
        known = digests.get(f"{path.parent.name}/{path.name}")  # older runs tell none
        if known is not None and known != hash_file(path):
            raise ValueError(f"{path} is not the snapshot that the run in {folder} has kept.")
        step = int(cast(re.Match[str], SNAPSHOT.match(path.name))[1])
        # A model of its own for each: a method's structure may have grown between two.
        yield step, of_adapter(replace(adapter, state=tensors(path), digests={}))


def movement(
    folder: str | Path, base: str | None = None, other: kinds.Other = kinds.refuse
) -> pd.DataFrame:
    """Magnitude and direction at each snapshot of a run, with its step."""
    parts = [
        matrices.magnitude_direction(found).assign(step=step)
        for step, found in checkpoints(folder, base, other)
    ]
    return pd.concat(parts, ignore_index=True)


def movements(
    folders: Iterable[str | Path], base: str | None = None, other: kinds.Other = kinds.refuse
) -> pd.DataFrame:
    """The movement of several runs, with their methods."""
    parts = [
        movement(folder, base, other).assign(method=method(read_adapter(Path(folder), other)))
        for folder in folders
    ]
    return pd.concat(parts, ignore_index=True)


def method(adapter: Adapter) -> str:
    """The name of the file of its method, as in the labels of results."""
    return type(adapter.variant).__module__.rpartition(".")[2]


def of_adapter(adapter: Adapter) -> dict[str, Change]:
    """The change of each linear layer that was adapted or trained; of all, if none was."""
    backbone = load(adapter).model.backbone
    linears = {n: m for n, m in backbone.named_modules() if isinstance(m, nn.Linear)}
    found = {name: of_layer(layer) for name, layer in adapter_layers(backbone)}
    trained = {name: m.weight for name, m in linears.items() if m.weight.requires_grad}
    if trained:
        before = adapter.model.backbone(adapter.precision)
        for name, weight in trained.items():
            W0 = cast(Tensor, before.get_submodule(name).weight)
            delta = array(weight.double() - W0.double())
            found[name] = Change(array(W0), delta.astype(array(W0).dtype))
    if found:
        return found
    return {name: unchanged(linear.weight) for name, linear in linears.items()}


@torch.no_grad()
def of_layer(layer: AdapterLayer) -> Change:
    """An adapter layer's change, in its factors if it has them; of a quantised base from what
    the bits stand for."""
    exact = deepcopy(layer).double()  # a small change of a large weight would lose its digits
    W0, factors = array(layer.W0), exact.factors()
    if factors is None:
        return Change(W0, array(exact.merged_weight() - exact.W0).astype(W0.dtype))
    A, B, scale = factors
    return Change(W0, (array(scale * B), array(A)))


def unchanged(W0: Tensor) -> Change:
    """No change, as a product of rank zero."""
    d_out, d_in = W0.shape
    return Change(array(W0), (np.zeros((d_out, 0)), np.zeros((0, d_in))))


def array(tensor: Tensor) -> np.ndarray:
    """The tensor in at least single precision."""
    return at_least_float32(tensor.detach()).numpy()


def bare(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Change]:
    """Changes of which only the factors B and A are known."""
    return {name: Change(None, (array(B), array(A))) for name, (B, A) in pairs.items()}


def main() -> None:
    """The command line."""
    given = arguments()
    try:
        (report if len(given.paths) == 1 else compare)(given)
    except (ValueError, OSError) as error:
        fail(error)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.geometry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", type=Path, metavar="PATH", nargs="+", help="a run, an adapter, or several runs"
    )
    kinds.add_option(parser)
    parser.add_argument(
        "--alpha", type=float, help="alpha of a loralib file, which does not say it"
    )
    parser.add_argument("--base", help="folder of the base model, if it has moved")
    parser.add_argument("--against", type=Path, help="another adapter, to compare subspaces with")
    parser.add_argument(
        "--side", choices=matrices.SIDES, default="right", help="which subspaces are compared"
    )
    parser.add_argument("--rank", type=int, help="number of directions of the amplification (all)")
    parser.add_argument(
        "--epsilon", type=float, default=0.6, help="threshold for intruder dimensions (0.6)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (0)")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/geometry"), help="folder of tables and figures"
    )
    return parser.parse_args()


def report(given: argparse.Namespace) -> None:
    """Print the table of sizes and what follows from it, and write tables and figures."""
    (path,) = given.paths
    found = changes(path, given.alpha, given.base, given.other)
    known = all(change.W0 is not None for change in found.values())
    tables = {"sizes": matrices.sizes(found), "spectra": matrices.spectra(found)}
    axes = {
        "spectra": figures.panels(figures.spectra, tables["spectra"], by="matrix")[0],
        "frobenius": figures.by_layer(tables["sizes"], "frobenius"),
        "effective_rank": figures.by_layer(tables["sizes"], "effective_rank"),
    }
    if known:
        tables["amplification"] = matrices.amplification(found, given.rank)
        tables["intruders"] = matrices.intruders(found, given.epsilon)
        tables["magnitude_direction"] = matrices.magnitude_direction(found)
    if (path / "snapshots").is_dir():
        tables["movement"] = movement(path, given.base, given.other)
        axes["movement"] = figures.panels(
            figures.magnitude_direction, tables["movement"], by="matrix", share=False
        )[0]
    if given.against:
        alpha = given.alpha if given.against.is_file() else None
        second = changes(given.against, alpha, given.base, given.other)
        tables["similarity"] = matrices.similarity(found, second, given.side)
        axes["similarity"] = figures.panels(figures.subspaces, tables["similarity"], by="matrix")[0]
    write(tables, axes, given.out)
    show(tables, given.out)


def compare(given: argparse.Namespace) -> None:
    """Print how magnitude and direction go together in each method, and write the scatters."""
    table = movements(given.paths, given.base, given.other)
    found = matrices.correlations(table, np.random.default_rng(given.seed))
    axes = {
        f"movement-{matrix}": figures.panels(
            figures.magnitude_direction, pd.DataFrame(group), by="method", share=False
        )[0]
        for matrix, group in table.groupby("matrix", sort=False)
    }
    write({"movement": table, "correlations": found}, axes, given.out)
    console = Console(width=110)
    console.print(shown(found, "correlation of magnitude and direction, layers drawn anew"))
    console.print(f"Tables and figures are in {given.out}.")


def write(tables: Mapping[str, pd.DataFrame], axes: Mapping[str, Axes], out: Path) -> None:
    """Write each table as CSV and each figure in every format."""
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        without_formulas(table).to_csv(out / f"{name}.csv", index=False)
    for name, axis in axes.items():
        figures.save(axis, out / name)


def show(tables: Mapping[str, pd.DataFrame], out: Path) -> None:
    """Print the sizes of every matrix and means over its type."""
    console = Console(width=110)
    console.print(shown(tables["sizes"], "every matrix"))
    every = tables["sizes"]
    if "amplification" in tables:
        counts = (
            tables["intruders"].groupby("name", as_index=False).agg(intruders=("intruder", "sum"))
        )
        factors = tables["amplification"].filter(["name", "factor"])
        every = every.merge(factors).merge(counts).merge(tables["magnitude_direction"])
    numbers = [column for column in every if column not in ("name", "layer", "matrix")]
    means = pd.DataFrame(every.groupby("matrix", sort=False)[numbers].mean()).T
    console.print(shown(means.reset_index(names="mean of"), "by type"))
    console.print(f"Tables and figures are in {out}.")


if __name__ == "__main__":
    main()
