"""The report in a browser: it renders, sorts, filters and draws, and asks for nothing."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from stored_runs import store, study

from analysis import index
from analysis.family import Rule
from analysis.report.material import gather
from analysis.report.page import Report

pytestmark = pytest.mark.thorough

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LAPTOP, PHONE = 1280, 390


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("There is no chromium on PATH, and nothing else here draws the page.")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page on four methods and two tasks, with a name that is far too long."""
    folder = tmp_path_factory.mktemp("runs")
    study(
        folder, {"vera": 0.8, "lora": 0.86, "dora": 0.865, "full": 0.93}, ["sst2", "cola"], seeds=6
    )
    right = np.random.default_rng(0).random(200) < 0.7
    for name in ("a_name_without_any_place_to_break_it_at" * 3, "short"):
        store(folder, name, 0, right, task=f"local/{name}")
    path = folder / "report.html"
    path.write_text(Report(gather(folder), Rule()).html())
    return path.as_uri()


class Watched:
    """A page, and all that it asked for or complained about."""

    def __init__(self, browser: Browser, address: str, width: int, scheme: str = "light") -> None:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
        )
        self.page: Page = context.new_page()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("#pareto .chart")

    def texts(self, selector: str) -> list[str]:
        """The text of every visible element."""
        return self.page.locator(f"{selector}:visible").all_inner_texts()

    def column(self, table: str, place: int) -> list[str]:
        """The visible cells of a column, counted from 1."""
        return self.texts(f"#table-{table} tbody tr:not([hidden]) td:nth-child({place})")


@pytest.fixture(params=[(LAPTOP, "light"), (PHONE, "dark")], ids=["laptop", "phone"])
def watched(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Watched]:
    found = Watched(browser, address, *request.param)
    yield found
    found.page.context.close()


@pytest.fixture(scope="module")
def laptop(browser: Browser, address: str) -> Iterator[Watched]:
    found = Watched(browser, address, LAPTOP)
    yield found
    found.page.context.close()


def test_it_renders_without_a_word_and_asks_for_nothing(watched: Watched) -> None:
    assert watched.texts("h1") == ["Which method should I use?"]
    assert len(watched.texts(".card h3")) == 5
    assert watched.page.locator("#pareto .chart").count() == 2
    assert watched.page.locator("#curves .chart").count() == 2
    assert watched.page.locator("#profiles .chart").count() == 1
    assert watched.said == []
    assert all(url.startswith(("file://", "data:")) for url in watched.asked)


def test_the_page_is_never_wider_than_the_screen(watched: Watched) -> None:
    sizes = watched.page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert sizes[0] <= sizes[1]


def test_no_text_is_cut_off_outside_of_a_table(watched: Watched) -> None:
    wide = watched.page.evaluate(
        """() => [...document.querySelectorAll("h1, h2, h3, p, li, figcaption, .bar")]
        .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
        .map((node) => node.textContent)"""
    )
    assert wide == []


def test_letters_are_large_enough_and_dark_enough(watched: Watched) -> None:
    sizes, contrasts = watched.page.evaluate(
        """() => {
        const light = (colour) => {
            const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
                .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const back = (node) => {
            const colour = getComputedStyle(node).backgroundColor;
            return colour.startsWith("rgba(0, 0, 0, 0)") ? back(node.parentElement) : colour;
        };
        const nodes = [...document.querySelectorAll("p, li, td, th button, h1, h2, h3, nav a")]
            .filter((node) => node.textContent.trim() && node.offsetParent);
        return [
            nodes.map((node) => parseFloat(getComputedStyle(node).fontSize)),
            nodes.map((node) => {
                const pair = [light(getComputedStyle(node).color), light(back(node))].sort();
                return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
            }),
        ];
    }"""
    )
    assert min(sizes) >= 12
    assert min(contrasts) >= 4.5  # WCAG 2.2, 1.4.3


def test_a_click_on_a_head_sorts_and_another_turns_it_around(laptop: Watched) -> None:
    head = laptop.page.locator("#table-costs th", has_text="trained").locator("button")
    place = laptop.texts("#table-costs th").index("trained") + 1
    before = laptop.column("costs", place)
    head.click()
    rising = [int(text.replace(",", "")) for text in laptop.column("costs", place)]
    assert rising == sorted(rising) and len(rising) == len(before)
    assert head.locator("..").get_attribute("aria-sort") == "ascending"
    head.click()
    falling = [int(text.replace(",", "")) for text in laptop.column("costs", place)]
    assert falling == sorted(falling, reverse=True)
    assert head.locator("..").get_attribute("aria-sort") == "descending"


def test_numbers_are_sorted_as_numbers_and_unknown_ones_come_last(laptop: Watched) -> None:
    place = laptop.texts("#table-pairs th").index("p") + 1
    laptop.page.locator(f"#table-pairs th:nth-child({place}) button").click()
    keys = laptop.page.locator(f"#table-pairs td:nth-child({place})").evaluate_all(
        "(cells) => cells.map((cell) => cell.dataset.key)"
    )
    known = [float(key) for key in keys if key]
    assert known == sorted(known) and keys[: len(known)] == [key for key in keys if key]


def test_a_text_filters_rows_by_all_of_its_words(laptop: Watched) -> None:
    box = laptop.page.locator('[data-table="runs"]')
    every = len(laptop.column("runs", 1))
    box.locator("input").fill("LORA  select")
    shown = laptop.texts("#table-runs tbody tr")
    assert len(shown) == 6 and all("lora" in row and "select" in row for row in shown)
    assert box.locator(".count").inner_text() == f"6 of {every} rows"
    box.locator("input").fill("")
    assert len(laptop.column("runs", 1)) == every


def test_pickers_filter_by_task_and_method_together(laptop: Watched) -> None:
    box = laptop.page.locator('[data-table="scores"]')
    box.get_by_label("task").select_option("local/cola")
    box.get_by_label("method").select_option("lora")
    assert len(laptop.texts("#table-scores tbody tr")) == 1
    box.get_by_label("task").select_option("")
    assert len(laptop.texts("#table-scores tbody tr")) == 2
    box.get_by_label("method").select_option("")


def test_a_mark_tells_its_numbers_to_mouse_and_keyboard(laptop: Watched) -> None:
    tip, mark = laptop.page.locator("#tip"), laptop.page.locator("#pareto .mark").first
    mark.scroll_into_view_if_needed()
    mark.hover()
    assert tip.inner_text().splitlines()[0] in {"vera", "lora", "dora", "full"}
    assert "trained parameters" in tip.inner_text()
    laptop.page.mouse.move(0, 0)
    assert not tip.is_visible()
    mark.focus()
    assert tip.is_visible()
    mark.blur()


def test_the_pareto_chart_takes_another_cost_and_a_single_task(laptop: Watched) -> None:
    page = laptop.page
    page.locator("#pareto-axis").select_option("train_seconds")
    assert "training, seconds" in page.locator("#pareto .chart").first.inner_text()
    page.locator("#pareto-task").select_option(index=1)
    assert page.locator("#pareto .chart").count() == 1
    page.locator("#pareto-task").select_option("")
    page.locator("#pareto-axis").select_option("trained")
    assert page.locator("#pareto .chart").count() == 2


def test_a_method_that_trains_nothing_stands_left_of_a_logarithmic_axis(
    browser: Browser, tmp_path: Path
) -> None:
    right = np.random.default_rng(0).random((3, 3, 60)) < 0.8
    for number, (name, trained) in enumerate({"none": 0, "few": 1000, "many": 10**6}.items()):
        cost = {"parameters": {"trained": trained}}
        for seed in range(3):
            store(tmp_path / "runs", name, seed, right[number, seed], cost=cost)
    path = tmp_path / "page.html"
    path.write_text(Report(gather(tmp_path / "runs")).html(), encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    chart = page.locator("#pareto .chart").first
    places = chart.locator(".mark .hit").evaluate_all(
        "(all) => all.map((c) => +c.getAttribute('cx'))"
    )
    none, few, many = sorted(places)
    assert few - none > 20 and many - few > 2 * (few - none)
    assert "0" in chart.locator("svg text").all_text_contents()
    page.close()


def test_a_method_in_the_legend_stands_out(laptop: Watched) -> None:
    button = laptop.page.locator("#cost .legend button", has_text="dora")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    laptop.page.mouse.move(0, 0)
    on = laptop.page.locator("#pareto .mark.on").evaluate_all(
        "(all) => all.map((m) => m.dataset.method)"
    )
    assert on == ["dora", "dora"]
    button.click()
    laptop.page.mouse.move(0, 0)
    assert laptop.page.locator("#pareto.picked").count() == 0


def test_without_scripts_verdicts_and_tables_are_there(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator(".card h3").count() == 5
    assert page.locator("#table-scores tbody tr").count() == 10
    context.close()


def test_a_run_opens_a_panel_with_settings_command_and_files(laptop: Watched) -> None:
    row = laptop.page.locator("#table-runs tr.run", has_text="select").first
    row.click()
    panel = laptop.page.locator("#table-runs tr.panel")
    said = panel.inner_text()
    assert "variant.lr" in said and "effective learning rate" in said and "result.json" in said
    assert row.get_attribute("aria-expanded") == "true"
    row.click()
    assert panel.count() == 0


def test_the_table_of_runs_shows_more_on_demand_and_sorts_all(laptop: Watched) -> None:
    head = laptop.page.locator("#table-runs th", has_text="score").locator("button")
    head.click()
    place = laptop.texts("#table-runs th").index("score") + 1
    rising = [float(text) for text in laptop.column("runs", place)]
    assert rising == sorted(rising) and len(rising) > 50


def saved(watched: Watched, button: Locator) -> tuple[str, str]:
    """The name and the text of what a button saves."""
    with watched.page.expect_download() as download:
        button.click()
    path = download.value.path()
    return download.value.suggested_filename, path.read_bytes().decode("utf-8", "replace")


def test_tables_are_saved_with_all_their_digits(laptop: Watched) -> None:
    name, text = saved(laptop, laptop.page.locator('[data-table="scores"] .save'))
    head, *rows = text.splitlines()
    assert name == "scores.csv" and head.startswith("task,method,score") and len(rows) == 10
    assert len(rows[0].split(",")[2]) > 4  # a score with more digits than the page shows
    name, text = saved(laptop, laptop.page.locator('[data-table="runs"] .save'))
    assert name == "runs.csv" and len(text.splitlines()) > 50


@pytest.mark.parametrize("place", [".card .plot", "#pareto .chart", "#curves .chart", "#profiles"])
def test_charts_are_saved_as_svg_and_png(laptop: Watched, place: str) -> None:
    box = laptop.page.locator(place).first
    _, text = saved(laptop, box.get_by_role("button", name="SVG"))
    assert text.startswith("<svg xmlns=") and "var(--" not in text and ">lora<" in text
    root = ElementTree.fromstring(text)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) >= 4
    name, data = saved(laptop, box.get_by_role("button", name="PNG"))
    assert name.endswith(".png") and "PNG" in data[:8]


def test_in_dark_mode_every_mark_stands_out_from_its_card(browser: Browser, address: str) -> None:
    dark = Watched(browser, address, LAPTOP, "dark")
    contrasts = dark.page.evaluate(
        """() => {
        const light = (colour) => {
            const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
                .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const back = light(getComputedStyle(document.querySelector(".card")).backgroundColor);
        return [...document.querySelectorAll(".swatch path, .dot, .chart text")].map((node) => {
            const pair = [light(getComputedStyle(node).fill), back];
            return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        });
    }"""
    )
    assert len(contrasts) > 40 and min(contrasts) >= 3  # WCAG 2.2, 1.4.11
    dark.page.context.close()


def test_the_board_takes_a_largest_number_of_parameters_and_opens_runs(browser: Browser) -> None:
    page = browser.new_page()
    page.goto((ROOT / "results" / index.NAME).as_uri())
    shown = "#table-board tbody tr:not([hidden])"
    rows = page.locator(shown)
    heads = page.locator("#table-board thead th").all_inner_texts()
    place = heads.index("parameters") + 1
    cells = page.locator(f"{shown} td:nth-child({place})").all_inner_texts()
    few = sum(int(text.replace(",", "")) <= 73728 for text in cells)
    page.locator("#board input[type=number]").fill("73728")
    methods = set(page.locator(f"{shown} td:first-child").all_inner_texts())
    assert rows.count() == few < len(cells)
    assert {"lora", "vera", "bitfit"} <= methods and not {"full", "last_k"} & methods
    rows.nth(1).locator("a").first.click()
    opened = page.locator("details[open]")
    assert opened.count() == 1 and opened.locator("summary").is_visible()
    assert opened.get_attribute("id") == page.url.rpartition("#")[2]
    page.close()
