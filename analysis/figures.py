"""Figures: a tidy table in, matplotlib Axes out.

Colours are those of Okabe & Ito, 2008, and of viridis, which all readers can tell apart; what a
colour says a marker, a line or a hatch says too.
"""

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator

from analysis.looks import look_in_figures
from experiments.stored.shown import visible

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip
LINES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v", "P", "X", "*")
ORDERED = mpl.colormaps["viridis"]  # for what has an order, as layers
STYLE: dict[str, Any] = {
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.dpi": 150,
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
COST_LABELS = {
    "trained": "trained parameters",
    "train_seconds": "training (s)",
    "train_processor_seconds": "processor in training (s)",
    "train_flops": "operations of training",
    "train_peak_mib": "peak memory (MiB)",
    "adapter_bytes": "adapter (bytes)",
    "adapted_ms": "latency, adapter in place (ms)",
    "merged_ms": "latency, merged (ms)",
}
Frame = Any  # a pandas.DataFrame, of whose columns a type checker knows nothing
FORMATS = ("png", "pdf")
Draw = TypeVar("Draw", bound=Callable[..., Any])


def styled(draw: Draw) -> Draw:
    """The function under the style of this file, whatever is set elsewhere."""

    @wraps(draw)
    def under_style(*args: Any, **settings: Any) -> Any:
        with mpl.rc_context(cast(Any, STYLE)):
            return draw(*map(literal, args), **{k: literal(v) for k, v in settings.items()})

    return cast(Draw, under_style)


def literal(value: Any) -> Any:
    """A table or a collection of names as matplotlib writes them: between two $ is no formula."""
    if isinstance(value, pd.DataFrame):
        texts = [name for name in value if not pd.api.types.is_numeric_dtype(value[name])]
        return value.assign(**{name: value[name].map(literal_text) for name in texts})
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(map(literal_text, value))
    return value


def literal_text(value: Any) -> Any:
    """A name that is written as it is."""
    return visible(value).replace("$", r"\$") if isinstance(value, str) else value


def canvas(axes: Axes | None, width: float = 4.4, height: float = 3.2) -> Axes:
    """The Axes to draw on: if none are given, new ones, in a figure that needs no screen."""
    if axes is not None:
        return axes
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


@styled
def panels(
    draw: Callable[..., Axes], table: Frame, by: str, share: bool = True, **settings: Any
) -> list[Axes]:
    """One panel of `draw` for each value of a column in one figure, three in a row."""
    groups = list(table.groupby(by, sort=False))
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).ravel()
    for axis, (value, group) in zip(axes, groups, strict=False):
        draw(group, axes=axis, **settings)
        axis.set_title(", ".join(filter(None, (str(value), axis.get_title()))))
    for axis in axes[len(groups) :]:
        axis.remove()
    return list(axes[: len(groups)])


@styled
def save(axes: Axes, path: Path, formats: Collection[str] = FORMATS) -> list[Path]:
    """Write the figure that the Axes stand in, once per format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for ending in formats:
        written.append(path.with_name(f"{path.name}.{ending}"))
        # No date in the file: the same table gives the same bytes.
        about = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(ending)
        root(axes).savefig(written[-1], metadata=about)
    return written


def colours(values: Frame) -> dict[Any, Any]:
    """A colour of viridis for each of the ordered values; not its palest end."""
    known = sorted(values.unique())
    scale = Normalize(0, max(len(known) - 1, 1) / 0.9)
    return {value: ORDERED(scale(i)) for i, value in enumerate(known)}


def from_zero(axes: Axes) -> None:
    """Let the vertical axis take in zero; a fixed limit would cut panels that share it."""
    axes.update_datalim([(0, 0)], updatex=False)
    axes.autoscale_view()


def marker_style(i: int) -> dict[str, Any]:
    """The line and the marker of the i-th kind of thing."""
    return {"linestyle": LINES[i % len(LINES)], "marker": MARKERS[i % len(MARKERS)]}


def layer_keys(shade: dict[Any, Any]) -> list[Line2D]:
    """Legend entries for the first and the last layer."""
    ends = sorted(shade)[:: max(len(shade) - 1, 1)]
    return [Line2D([], [], color=shade[n], linewidth=3, label=f"layer {n}") for n in ends]


@styled
def spectra(table: Frame, axes: Axes | None = None) -> Axes:
    """Singular values of every delta: colour is the layer, line and marker the type of matrix."""
    axes = canvas(axes)
    shade, kinds = colours(table["layer"]), list(table["matrix"].unique())
    size = 3 if table["index"].max() <= 20 else 0
    for (kind, layer), group in table.groupby(["matrix", "layer"], sort=False):
        style = marker_style(kinds.index(kind)) | {"color": shade[layer], "markersize": size}
        axes.plot(group["index"], group["value"], **style)
    axes.set(xlabel="index", ylabel="singular value of ΔW")
    from_zero(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [
        Line2D([], [], color="0.3", label=kind, **marker_style(i)) for i, kind in enumerate(kinds)
    ]
    axes.legend(handles=(handles if len(kinds) > 1 else []) + layer_keys(shade))
    return axes


@styled
def by_layer(table: Frame, value: str, axes: Axes | None = None) -> Axes:
    """A column of the table over the layers, a line for each type of matrix."""
    axes = canvas(axes)
    for i, (kind, group) in enumerate(table.groupby("matrix", sort=False)):
        means = group.groupby("layer")[value].mean()
        axes.plot(
            means.index, means, label=kind, color=PALETTE[i % len(PALETTE)], **marker_style(i)
        )
    axes.set(xlabel="layer", ylabel=value.replace("_", " "))
    from_zero(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return axes


@styled
def subspaces(table: Frame, axes: Axes | None = None) -> Axes:
    """The heat map of phi(i, j), a mean over the matrices in the table."""
    axes = canvas(axes, 4.2, 3.6)
    phi = table.pivot_table(index="i", columns="j", values="similarity")
    edges = (0.5, phi.shape[1] + 0.5, phi.shape[0] + 0.5, 0.5)
    image = axes.imshow(phi, vmin=0, vmax=1, cmap=ORDERED, extent=edges, aspect="auto")
    axes.set(xlabel="j", ylabel="i")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    root(axes).colorbar(image, ax=axes, label="φ(i, j)")
    return axes


def root(axes: Axes) -> Figure:
    """The whole figure that the Axes stand in."""
    return cast(Figure, axes.get_figure(root=True))


@styled
def magnitude_direction(table: Frame, axes: Axes | None = None) -> Axes:
    """DoRA's scatter of one method: colour is the layer, marker the checkpoint, and the trend."""
    axes = canvas(axes)
    shade = colours(table["layer"])
    steps = sorted(table["step"].unique())
    for (layer, step), group in table.groupby(["layer", "step"]):
        marker = MARKERS[steps.index(step) % len(MARKERS)]
        axes.scatter(group["direction"], group["magnitude"], color=shade[layer], marker=marker)
    x, y = table["direction"].to_numpy(), table["magnitude"].to_numpy()
    if x.std() and y.std():
        slope, start = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, slope * ends + start, color="0.4", zorder=0)
        axes.set_title(f"r = {np.corrcoef(x, y)[0, 1]:+.2f}")
    axes.set(xlabel="ΔD, change of direction", ylabel="ΔM, change of magnitude")
    axes.ticklabel_format(style="sci", scilimits=(-2, 3))
    dot: dict[str, Any] = {"color": "0.3", "linestyle": ""}
    handles = [
        Line2D([], [], marker=MARKERS[i % len(MARKERS)], label=f"step {step}", **dot)
        for i, step in enumerate(steps)
    ]
    axes.legend(handles=handles + layer_keys(shade))
    return axes


@styled
def rank_map(table: Frame, axes: Axes | None = None, marked: Collection[str] = ()) -> Axes:
    """The rank that each matrix kept, layers upwards; `marked` names get a frame."""
    layers, kinds = sorted(table["layer"].unique()), list(table["matrix"].unique())
    axes = canvas(axes, 1.4 + 0.9 * len(kinds), 1.2 + 0.34 * len(layers))
    grid = table.pivot(index="layer", columns="matrix", values="rank").loc[layers, kinds]
    axes.imshow(grid, cmap=ORDERED, vmin=0, origin="lower", aspect="auto")
    for row in table.itertuples():
        x, y = kinds.index(row.matrix), layers.index(row.layer)
        dark = row.rank < 0.6 * grid.to_numpy().max()
        axes.text(x, y, f"{row.rank:g}", ha="center", va="center", color="w" if dark else "k")
        if row.name in marked:
            frame = {"fill": False, "edgecolor": RED, "linewidth": 2.5, "linestyle": "--"}
            axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, **frame))
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylabel("layer")
    axes.set_title("rank kept" + (", planted in dashes" if marked else ""))
    return axes


@styled
def budget_curve(table: Frame, axes: Axes | None = None) -> Axes:
    """The total rank over training as bold steps, and below it what each type of matrix has."""
    axes = canvas(axes)
    total = table.groupby("step")["rank"].sum()
    axes.step(total.index, total, where="post", color=BLACK, linewidth=2.2, label="all")
    for i, (kind, group) in enumerate(table.groupby("matrix", sort=False)):
        part = group.groupby("step")["rank"].sum()
        style = {"color": PALETTE[i % 7], "linestyle": LINES[(i + 1) % len(LINES)], "label": kind}
        axes.step(part.index, part, where="post", **style)
    axes.set(xlabel="step", ylabel="total rank")
    from_zero(axes)
    axes.legend()
    return axes


@styled
def rank_steps(table: Frame, axes: Axes | None = None, marked: Collection[str] = ()) -> Axes:
    """The rank of each matrix over training, a row for each; `marked` names are starred."""
    grid = table.pivot(index="name", columns="step", values="rank")
    rows = table.drop_duplicates("name")
    grid = grid.loc[rows["name"]]
    axes = canvas(axes, 5.0, 0.9 + 0.2 * len(rows))
    steps, places = grid.columns.to_numpy(), range(len(rows))
    mesh = axes.pcolormesh(steps, places, grid, cmap=ORDERED, vmin=0, shading="nearest")
    axes.set_yticks(places, labels(rows, marked))
    axes.invert_yaxis()
    axes.set_xlabel("step")
    root(axes).colorbar(mesh, ax=axes, label="rank", ticks=MaxNLocator(integer=True))
    if marked:
        axes.set_title("★ planted")
    return axes


def labels(table: Frame, marked: Collection[str]) -> list[str]:
    """Layer and type of each matrix, `marked` names with a star."""
    return [
        f"{'★ ' if row.name in marked else ''}{row.layer} {row.matrix}"
        for row in table.itertuples()
    ]


@styled
def importance_bars(table: Frame, axes: Axes | None = None, marked: Collection[str] = ()) -> Axes:
    """Importance of each layer, largest first: filled where it kept a pair of its own, hatched
    where it shares one; `marked` names are starred."""
    table = table.sort_values("importance", ascending=False, kind="stable")
    axes = canvas(axes, 4.2, 0.9 + 0.26 * len(table))
    own: dict[str, Any] = {"facecolor": BLUE}
    shared: dict[str, Any] = {"facecolor": "w", "edgecolor": ORANGE, "hatch": "////"}
    for y, row in enumerate(table.itertuples()):
        axes.barh(y, row.importance, **(own if row.own else shared))
    axes.set_yticks(range(len(table)), labels(table, marked))
    axes.invert_yaxis()
    axes.set_xlabel("share of ‖ΔW x‖²")
    axes.legend([Patch(**own), Patch(**shared)], ["own pair", "shared pair"], loc="lower right")
    if marked:
        axes.set_title("★ planted")
    return axes


@styled
def pareto(table: Frame, cost: str, axes: Axes | None = None) -> Axes:
    """Score against one cost, both with their intervals, and a line along the best for each cost.

    The table is `analysis.cost.table`'s for one task, with a column `front`.
    """
    axes = canvas(axes)
    for row in table.to_dict("records"):
        style: dict[str, Any] = look_in_figures(row["variant"])
        axes.errorbar(
            row[cost], row["score"], xerr=arms(row, cost), yerr=arms(row, "score"),
            markersize=6, elinewidth=0.9, label=row["variant"], zorder=3, **style,
        )  # fmt: skip
    best = table[table["front"]].sort_values(cost)
    axes.step(best[cost], best["score"], where="post", color="0.6", linewidth=1.2, zorder=0)
    positive = table[cost][table[cost] > 0]
    if len(positive) and positive.max() > 20 * positive.min():
        if len(positive) == len(table):
            axes.set_xscale("log")
        else:  # a method that trains nothing has a place too
            axes.set_xscale("symlog", linthresh=positive.min())
    axes.set(xlabel=COST_LABELS.get(cost, cost), ylabel=str(table["metric"].iloc[0]))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return axes


@styled
def trade_offs(tables: Mapping[str, Frame]) -> list[Axes]:
    """`pareto` for several costs side by side, with one legend; a table for each cost."""
    figure = Figure(figsize=(1.3 + 2.5 * len(tables), 2.9), layout="constrained")
    axes = list(figure.subplots(1, len(tables), squeeze=False, sharey=True)[0])
    for axis, (cost, table) in zip(axes, tables.items(), strict=True):
        pareto(table, cost, axes=axis)
        cast(Legend, axis.get_legend()).remove()
        axis.label_outer()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    return axes


def arms(row: dict[Any, Any], column: str) -> list[list[float]] | None:
    """The two arms of an interval, as `errorbar` takes them; None if there is none."""
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return None if np.isnan(low) else [[row[column] - low], [high - row[column]]]


@styled
def scores(table: Frame, axes: Axes | None = None, floor: float | None = None) -> Axes:
    """Means with their intervals, the highest on top, and the letters of what is not told apart.

    The table has `method`, `mean`, `low`, `high` and `letters`; a floor is a dashed line.
    """
    table = table.sort_values("mean", ascending=False, kind="stable")
    axes = canvas(axes, 4.4, 0.9 + 0.3 * len(table))
    for place, row in enumerate(table.to_dict("records")):
        style: dict[str, Any] = look_in_figures(row["method"])
        axes.plot([row["low"], row["high"]], [place, place], color="0.5", linewidth=1.2)
        axes.plot(row["mean"], place, markersize=6, **style)
    if floor is not None:
        axes.axvline(floor, color="0.5", linestyle="--", linewidth=1)
    names = [f"{row.method}  {row.letters}".strip() for row in table.itertuples()]
    axes.set_yticks(range(len(table)), names)
    axes.invert_yaxis()
    axes.margins(y=0.12)
    return axes


@styled
def curves(table: Frame, quantity: str, axes: Axes | None = None) -> Axes:
    """Means over the runs of each method by step, with the least and the most of them.

    The table has `method`, `step` and a column for the quantity, a row for each record of a run.
    """
    axes = canvas(axes)
    for method, group in table.groupby("method"):
        found = group.groupby("step")[quantity].agg(["mean", "min", "max"]).dropna()
        colour = look_in_figures(str(method))["color"]
        axes.plot(found.index, found["mean"], color=colour, label=str(method))
        axes.fill_between(found.index, found["min"], found["max"], color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="step", ylabel=quantity.replace("_", " "))
    axes.legend()
    return axes


@styled
def profiles(table: Frame, axes: Axes | None = None) -> Axes:
    """The share of runs above each score, a line with its band for each method.

    The table has `method`, `threshold`, `share`, `low` and `high`.
    """
    axes = canvas(axes)
    for place, (method, group) in enumerate(table.groupby("method", sort=False)):
        colour, line = look_in_figures(str(method))["color"], LINES[place % len(LINES)]
        # A share holds from its threshold up to the next.
        axes.step(
            group["threshold"], group["share"], where="post", color=colour, linestyle=line,
            label=str(method),
        )  # fmt: skip
        band = {"step": "post", "color": colour, "alpha": 0.15, "linewidth": 0}
        axes.fill_between(group["threshold"], group["low"], group["high"], **band)
    axes.set(xlabel="score in standard deviations", ylabel="share of runs above it", ylim=(0, 1.02))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return axes
