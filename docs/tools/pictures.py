"""Draw the pictures of docs/pictures/ anew, in light and in dark: `make pictures`.

    python docs/tools/pictures.py [NAME ...]

Cards and charts are taken from the report on `results/minilm_glue` by a chromium on PATH, as they
stand there; the figures of geometry and of ranks come from runs on the built-in suite, which are
made if `outputs/` does not have them (a minute or two).
"""

import argparse
import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
from life_of_a_run import draw_life
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from analysis import allocation, compare, figures, geometry
from experiments import run

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "pictures"
STUDY = ROOT / "results" / "minilm_glue"
THEMES = ("light", "dark")
INK = {"light": "#1d1d1b", "dark": "#ebe9e2"}
# A code host shows the light figures on dark pages too, so these have a ground of their own.
PAPER = {"light": "#ffffff", "dark": "none"}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# What is taken of the report: the width of the window, and the first and the last element.
PARTS = {
    "answer": (1000, "header", "#leaders"),
    "verdict-card": (760, ".card:nth-of-type(4)", ".card:nth-of-type(4)"),
    "learning-rates": (1000, "#tuning .legend", "#curves"),
    "cost-quality": (1000, "#cost .legend", "#pareto"),
}
BUILT_IN = ["tracker.mode=disabled", "hydra.run.dir=outputs/${hydra.sweep.subdir}"]
MOVED = {"full": ["variant.lr=6e-5"], "lora": [], "dora": []}
SNAPSHOTS = ["task=rte", "data.train=1024", "train.epochs=3", "record.snapshots=4", *BUILT_IN]
PLANTED = [
    "variant=adalora", "variant.rank=4", "variant.target_rank=1", "variant.alpha=8",
    "task=planted", "variant.targets=[query,value]", "data.train=1024", "train.epochs=12",
    *BUILT_IN,
]  # fmt: skip


@contextmanager
def colours(theme: str) -> Iterator[None]:
    """matplotlib in the colours of a theme.

    In the dark the plots themselves stay light, as their own colours are chosen for that.
    """
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = dict.fromkeys(names, INK[theme])
    ground = "#ffffff" if theme == "light" else "#dcdad3"
    style |= dict.fromkeys(("figure.facecolor", "savefig.facecolor"), PAPER[theme])
    style |= {"axes.facecolor": ground}
    style |= {"legend.labelcolor": INK["light"], "svg.hashsalt": "lora-assay"}
    with mpl.rc_context(style):
        yield


@cache
def snapshots() -> Any:
    """How magnitudes and directions of the query matrices moved, by method and checkpoint."""
    results = [run(f"variant={name}", *own, *SNAPSHOTS) for name, own in MOVED.items()]
    moved = geometry.movements(result.folder for result in results)
    return moved[moved["matrix"] == "query"]


def draw_movements() -> Axes:
    """Magnitude against direction for three methods."""
    return figures.panels(figures.magnitude_direction, snapshots(), by="method", share=False)[0]


@cache
def planted() -> Path:
    """The folder of a run of AdaLoRA on the planted task."""
    return run(*PLANTED).folder


def draw_ranks() -> Axes:
    """The rank that AdaLoRA left to each matrix, and where the planted update lies."""
    return figures.rank_map(allocation.ranks(planted()), marked=allocation.planted(planted()))


def draw_false_claims() -> Axes:
    """The table of docs/statistics.md: false claims of the verdicts and of a t test."""
    text = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    seeds = [3, 5, 8, 16]
    rows = re.findall(r"^\| [^|]+" + r"\| ([\d.]+) \(([\d.]+)\) " * len(seeds) + r"\|$", text, re.M)
    assert len(rows) == 5, "docs/statistics.md has not the table that was expected."
    axes = Figure(figsize=(5.2, 3.0), layout="constrained").add_subplot()
    for place, row in enumerate(rows):
        ours, theirs = list(map(float, row[::2])), list(map(float, row[1::2]))
        labels = ("verdicts", "t test, Satterthwaite") if place == 0 else (None, None)
        axes.plot(seeds, theirs, "s--", color=figures.RED, label=labels[1], markersize=4)
        axes.plot(seeds, ours, "o-", color=figures.BLUE, label=labels[0], markersize=4)
    axes.axhline(5, color="0.5", linewidth=1, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="seeds", ylabel="studies with a false claim, %")
    axes.set_xticks(seeds, [str(seed) for seed in seeds], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.legend(frameon=False)
    return axes


DRAWN: dict[str, Callable[[], Axes]] = {
    "magnitude-direction": draw_movements,
    "rank-allocation": draw_ranks,
    "false-claims": draw_false_claims,
}


def draw_figures(names: list[str]) -> None:
    """Write these figures as SVG."""
    for name in names:
        for theme in THEMES:
            with colours(theme):
                figures.save(DRAWN[name](), FOLDER / f"{name}-{theme}", formats=["svg"])


def take_parts(names: list[str]) -> None:
    """Take these parts of the report as they stand there."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(f"These need a browser on PATH, one of {', '.join(BROWSERS)}: {names}")
    with TemporaryDirectory() as folder, sync_playwright() as play:
        page = compare(STUDY).report(Path(folder) / "report.html")
        browser = play.chromium.launch(executable_path=program, args=FLAGS)
        for name in names:
            for theme in THEMES:
                shown = browser.new_page(
                    viewport={"width": PARTS[name][0], "height": 800}, device_scale_factor=1.5,
                    color_scheme=theme, reduced_motion="reduce",
                )  # fmt: skip
                shown.goto(page.resolve().as_uri())
                write_small(take(shown, *PARTS[name][1:]), FOLDER / f"{name}-{theme}.png")
                shown.close()
        browser.close()


def take(page: Page, first: str, last: str) -> bytes:
    """The picture of a page from one element to another."""
    page.add_style_tag(content="nav, .save, .controls { display: none !important }")
    top, bottom = (page.locator(name).first.bounding_box() for name in (first, last))
    assert top is not None and bottom is not None
    width = page.viewport_size["width"] if page.viewport_size else 1000
    height = bottom["y"] + bottom["height"] - top["y"]
    y = max(0.0, top["y"] - 12)
    clip: Any = {"x": 0.0, "y": y, "width": float(width), "height": height + 24}
    return page.screenshot(full_page=True, clip=clip)


def write_small(picture: bytes, path: Path) -> None:
    """Write a screenshot as a PNG of few colours."""
    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    few = whole.quantize(200, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def main() -> None:
    """The command line."""
    known = [*PARTS, *DRAWN, "life-of-a-run"]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    names = parser.parse_args().names or known
    FOLDER.mkdir(exist_ok=True)
    draw_figures([name for name in names if name in DRAWN])
    if parts := [name for name in names if name in PARTS]:
        take_parts(parts)
    if "life-of-a-run" in names:
        for theme in THEMES:
            path = FOLDER / f"life-of-a-run-{theme}.svg"
            path.write_text(draw_life(INK[theme], PAPER[theme]), encoding="utf-8")
    print(*sorted(path.name for path in FOLDER.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
