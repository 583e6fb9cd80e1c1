"""Figures: a table in, Axes out, in files of both kinds, and no setting of matplotlib's left."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures, matrices
from analysis.matrices import Change

pytestmark = pytest.mark.thorough

NAMES = [f"layer.{n}.{kind}" for n in range(3) for kind in ("query", "value")]


@pytest.fixture(scope="module")
def changes() -> dict[str, Change]:
    draw = np.random.default_rng(0).standard_normal
    return {name: Change(draw((8, 6)), (draw((8, 2)), draw((2, 6)))) for name in NAMES}


@pytest.fixture(scope="module")
def tables(changes: dict[str, Change]) -> dict[str, pd.DataFrame]:
    sizes = matrices.sizes(changes)
    moved = [matrices.magnitude_direction(changes).assign(step=step) for step in (1, 2, 3)]
    places = sizes[["name", "layer", "matrix"]]
    costs = pd.DataFrame({"variant": ["x", "y", "z"], "score": [0.7, 0.9, 0.8]}).assign(
        trained=[10, 1000, 2000],
        seconds=[1.0, 2.0, 3.0],
        metric="accuracy",
        front=[True, True, False],
    )
    return {
        "costs": costs.assign(
            **{f"{c}_{e}": np.nan for c in ("score", "trained", "seconds") for e in ("low", "high")}
        ),
        "sizes": sizes,
        "spectra": matrices.spectra(changes),
        "similarity": matrices.similarity(changes, matrices.pretrained(changes)),
        "moved": pd.concat(moved),
        "ranks": places.assign(rank=[0, 4, 1, 2, 3, 4]),
        "history": pd.concat([places.assign(rank=4 - step, step=step) for step in range(3)]),
        "shares": pd.DataFrame(
            [
                {"method": m, "threshold": t, "share": 1 - t, "low": 0.9 * (1 - t), "high": 1.0}
                for t in (0.0, 0.5, 1.0)
                for m in ("a", "b")
            ]
        ),
        "importance": places.assign(
            importance=[0.3, 0.1, 0.2, 0.1, 0.2, 0.1], own=[True, False] * 3
        ),
    }


FIGURES: dict[str, Callable[[dict[str, pd.DataFrame]], Axes]] = {
    "spectra": lambda t: figures.spectra(t["spectra"]),
    "by_layer": lambda t: figures.by_layer(t["sizes"], "effective_rank"),
    "subspaces": lambda t: figures.subspaces(t["similarity"]),
    "magnitude_direction": lambda t: figures.magnitude_direction(t["moved"]),
    "rank_map": lambda t: figures.rank_map(t["ranks"], marked={NAMES[1]}),
    "budget_curve": lambda t: figures.budget_curve(t["history"]),
    "importance_bars": lambda t: figures.importance_bars(t["importance"], marked={NAMES[0]}),
    "profiles": lambda t: figures.profiles(t["shares"]),
    "rank_steps": lambda t: figures.rank_steps(t["history"], marked={NAMES[0]}),
    "trade_offs": lambda t: figures.trade_offs({"trained": t["costs"], "seconds": t["costs"]})[1],
    "panels": lambda t: figures.panels(figures.spectra, t["spectra"], by="matrix")[1],
}


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_written_the_same_twice_and_changes_no_setting(
    tables: dict[str, pd.DataFrame], tmp_path: Path, name: str
) -> None:
    before = dict(mpl.rcParams)
    for folder in ("first", "second"):
        axes = FIGURES[name](tables)
        assert isinstance(axes, Axes)
        written = figures.save(axes, tmp_path / folder / name)
        assert [path.suffix for path in written] == [".png", ".pdf"]
    for path in (tmp_path / "first").iterdir():
        assert path.stat().st_size > 2000
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
    assert dict(mpl.rcParams) == before


def test_a_figure_can_stand_in_axes_of_ones_own(tables: dict[str, pd.DataFrame]) -> None:
    left, right = Figure().subplots(1, 2)
    assert figures.spectra(tables["spectra"], axes=right) is right
    assert len(right.lines) == 6 and not left.lines


def test_the_figures_show_the_numbers_of_the_table(tables: dict[str, pd.DataFrame]) -> None:
    grid = figures.rank_map(tables["ranks"]).images[0].get_array()
    assert np.asarray(grid).tolist() == [[0, 4], [1, 2], [3, 4]]
    bars = figures.importance_bars(tables["importance"])
    assert [patch.get_width() for patch in bars.patches] == [0.3, 0.2, 0.2, 0.1, 0.1, 0.1]
    assert [bool(patch.get_hatch()) for patch in bars.patches] == [False] * 3 + [True] * 3
    assert bars.get_yticklabels()[0].get_text() == "0 query"
    above = figures.profiles(tables["shares"]).lines
    assert [line.get_label() for line in above] == ["a", "b"]
    assert np.asarray(above[1].get_ydata()).tolist() == [1.0, 0.5, 0.0]
    total = figures.budget_curve(tables["history"]).lines[0]
    assert np.asarray(total.get_ydata()).tolist() == [24, 18, 12]
    phi = figures.subspaces(tables["similarity"]).images[0].get_array()
    expected = tables["similarity"].groupby(["i", "j"])["similarity"].mean()
    assert np.asarray(phi)[1, 3] == pytest.approx(expected[2, 4])


def test_ranks_over_training_stand_row_by_row_and_step_by_step(
    tables: dict[str, pd.DataFrame],
) -> None:
    axes = figures.rank_steps(tables["history"], marked={NAMES[1]})
    assert np.asarray(axes.collections[0].get_array()).tolist() == [[4, 3, 2]] * 6
    top, bottom = axes.get_ylim()[::-1]
    assert top < bottom  # the first matrix is the highest
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["0 query", "★ 0 value", "1 query", "1 value", "2 query", "2 value"]


def test_trade_offs_share_the_score_and_one_legend(tables: dict[str, pd.DataFrame]) -> None:
    axes = figures.trade_offs({"trained": tables["costs"], "seconds": tables["costs"]})
    assert [axis.get_xlabel() for axis in axes] == ["trained parameters", "seconds"]
    assert [axis.get_ylabel() for axis in axes] == ["accuracy", ""]
    assert [axis.get_xscale() for axis in axes] == ["log", "linear"]
    assert all(axis.get_legend() is None for axis in axes)
    (legend,) = figures.root(axes[0]).legends
    assert [text.get_text() for text in legend.get_texts()] == ["x", "y", "z"]


def test_panels_that_share_an_axis_cut_nothing_off() -> None:
    rows = [
        {"matrix": kind, "layer": 0, "index": i, "value": height / i}
        for kind, height in (("a", 1.0), ("b", 9.0), ("c", 3.0), ("d", 2.0))
        for i in (1, 2)
    ]
    axes = figures.panels(figures.spectra, pd.DataFrame(rows), by="matrix")
    assert [axis.get_title() for axis in axes] == ["a", "b", "c", "d"]
    for axis in axes:
        low, high = axis.get_ylim()
        assert low <= 0 and high > 9


def test_the_trend_of_magnitude_and_direction_is_in_the_title() -> None:
    rows = [{"layer": n, "step": 1, "direction": n, "magnitude": 5 - 2 * n} for n in range(4)]
    axes = figures.magnitude_direction(pd.DataFrame(rows))
    assert axes.get_title() == "r = -1.00"
    (panel,) = figures.panels(figures.magnitude_direction, pd.DataFrame(rows), by="step")
    assert panel.get_title() == "1, r = -1.00"
    assert np.asarray(axes.lines[0].get_ydata()) == pytest.approx([5, -1])
