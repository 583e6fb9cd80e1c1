"""The head of the report: answers, leaderboard, cards, looks, learning curves, single runs."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from stored_runs import store, study

from analysis.family import Rule
from analysis.load import effective_rate
from analysis.looks import COLOURS, ON_DARK, PATHS, look_of
from analysis.report import words
from analysis.report.answers import Case, cheaper_rivals, in_proportion, make_answer
from analysis.report.cards import Values, cards, chart, ticks
from analysis.report.comparisons import Comparison
from analysis.report.html_tables import Cell
from analysis.report.learning import FEW, FULL, POINTS, Histories, learning
from analysis.report.material import gather
from analysis.report.page import Report
from analysis.report.tuning import RATE, curves
from experiments.metrics.baseline import MAJORITY
from experiments.stored import history

METHODS = {"small": 0.9, "big": 0.904, "poor": 0.7}


def write_history(place: Path, losses: list[float]) -> None:
    lines = [{"step": 10 * i, "loss": y, "train_accuracy": 1 - y} for i, y in enumerate(losses, 1)]
    (place / history.NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods on two tasks; the second trains four times, the third 16 times as much."""
    folder = study(tmp_path_factory.mktemp("runs") / "outputs", METHODS, ["sst2", "cola"], seeds=8)
    for path in folder.rglob("result.json"):
        write_history(path.parent, [1.0 / step for step in range(1, 301)])
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Report:
    return Report(gather(folder), Rule(margin=1.0))


def data_of(report: Report) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', report.html("runs"), re.S)
    assert found is not None
    return json.loads(found[1])


# Answers


def test_the_answer_is_the_cheap_method_without_a_significant_difference(whole: Report) -> None:
    first, *others = whole.answers
    assert first.title == "Over 2 tasks" and [one.title for one in others] == [
        "local/cola", "local/sst2",
    ]  # fmt: skip
    assert first.method == "small"
    said = first.text.replace("\u00a0", " ")
    shape = r"small: (no significant difference from|the same as) big.* at 1/4 of the parameters "
    assert re.match(
        shape + r"and (the same time|\d+ % of the time); it may lose up to [\d.]+ points", said
    )
    assert first.text in whole.html()


def judged(whole: Report, **changes: Any) -> Case:
    one = whole.found[0]
    case = Case(found=one.verdicts, methods=one.methods, not_above_floor=[], floor=one.floor,
                metric=one.metric, seconds={"small": 3.0, "big": 6.0})  # fmt: skip
    return replace(case, **changes)


def test_methods_at_the_baseline_are_not_recommended(whole: Report) -> None:
    nothing = make_answer("x", judged(whole, not_above_floor=list(METHODS)))
    assert nothing.method is None
    assert nothing.text == "None: no evidence that any method beats the majority baseline (50.0)."
    assert make_answer("x", judged(whole, not_above_floor=["small"])).method == "big"


def test_a_cheap_method_that_may_lose_most_of_the_gain_is_not_recommended(whole: Report) -> None:
    case = judged(whole)
    assert case.floor is not None
    gain = case.methods.set_index("method").loc["big", "mean"] - case.floor

    def answer(kept: float, **changes: Any) -> str:
        loses = np.where(case.methods["method"] == "small", (1 - kept) * gain, 0.012)
        return make_answer(
            "x", replace(case, methods=case.methods.assign(loses=loses), **changes)
        ).text

    assert answer(kept=0.51).startswith("small: ")
    said = answer(kept=0.49).replace("\u00a0", " ")
    assert said.startswith("big: the highest mean, ")
    assert "may lose up to 1.2 points to the best. Methods with far fewer parameters" in said
    assert said.endswith("more than half of what big gains over the majority baseline.")
    # Without a baseline there is no gain to keep a share of.
    assert answer(kept=0.49, floor=None).startswith("small: ")


def test_time_is_told_only_where_it_is_known_on_one_machine(whole: Report) -> None:
    assert "50\u00a0% of the time" in make_answer("x", judged(whole)).text
    assert "the time" not in make_answer("x", judged(whole, seconds={"small": 3.0})).text


def test_a_method_that_beats_all_is_said_to(tmp_path: Path) -> None:
    study(tmp_path, {"cheap": 0.7, "dear": 0.95}, ["sst2"], seeds=6)
    (answer,) = Report(gather(tmp_path)).answers
    assert (answer.text, answer.method) == ("dear: significantly better than cheap.", "dear")


def test_the_best_and_cheapest_is_the_answer_without_a_rival(tmp_path: Path) -> None:
    study(tmp_path, {"cheap": 0.9, "dear": 0.9}, ["sst2"], seeds=6)
    report = Report(gather(tmp_path))
    (one,), (answer,) = report.found, report.answers
    assert one.verdicts is not None
    learned = one.methods.set_index("method")
    assert cheaper_rivals("cheap", one.verdicts, learned).empty
    assert answer.method == "cheap"


def test_beside_one_method_the_answer_is_relative_to_it(folder: Path) -> None:
    found = Report(gather(folder), Rule(against="big")).answers
    assert all(one.method == "small" and "difference from big" in one.text for one in found)
    against_worst = Report(gather(folder), Rule(against="poor")).answers[0]
    assert "significantly better than poor" in against_worst.text


def test_too_few_seeds_give_no_recommendation(tmp_path: Path) -> None:
    for seed in range(2):
        for place, name in enumerate(("lora", "dora")):
            right = np.random.default_rng(10 * place + seed).random(200) < 0.8
            store(tmp_path, name, seed, right)
    (answer,) = Report(gather(tmp_path)).answers
    assert answer.method is None and answer.text.startswith("With 2 common seeds too little")


def test_proportions_are_read_as_one_says_them() -> None:
    assert in_proportion(73728, 22565376, "the parameters") == "1/306 of the parameters"
    assert in_proportion(65, 100, "the time") == "65\u00a0% of the time"
    assert in_proportion(98, 100, "the time") == "the same time"
    assert in_proportion(210, 100, "the time") == "2.1 times the time"
    assert in_proportion(0, 100, "the parameters") == in_proportion(1, float("nan"), "x") == ""


# Leaderboard and baseline


def test_the_leaderboard_has_methods_by_tasks_and_the_baseline_last(whole: Report) -> None:
    found = re.search(r'<table id="table-leaders">(.*?)</table>', whole.html(), re.S)
    assert found is not None
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall("<tr>.*?</tr>", found[1])]
    assert [row[0] for row in rows] == ["big", "small", "poor", "majority"] or rows[0][0] == "small"
    assert " ".join(rows[-1]).startswith(MAJORITY) and "50.0" in rows[-1]
    small = next(row for row in rows if row[0] == "small")
    assert "3,000" in small and "1e\u22124" in small


def test_every_score_stands_beside_the_baseline(whole: Report) -> None:
    html = whole.html()
    assert html.count("baseline 50.0") >= 3  # told once for all rows of a table
    chart_data = data_of(whole)
    assert all(chart["floor"] == 50.0 for chart in chart_data["pareto"])
    assert set(chart_data["runs"]["baseline"]) == {50.0}


# Cards


def values(low: float, high: float, floor: float, seeds: list[float]) -> Values:
    table = pd.DataFrame(
        {"method": ["m"], "mean": [(low + high) / 2], "low": [low], "high": [high], "letters": "a"}
    )
    return Values(
        methods=table, by_seed={"m": seeds}, floor=floor, floor_name=MAJORITY, metric="accuracy"
    )


def test_cards_in_one_unit_have_one_scale(whole: Report) -> None:
    spans = set()
    for card in cards(whole.found, whole.overall):
        (first, text), (last, other) = card["ticks"][0], card["ticks"][-1]
        values = [float(t.replace("\u2212", "-")) for t in (text, other)]
        spans.add(round((last - first) / (values[1] - values[0]), 2))
    assert len(spans) == 1


def test_a_floor_is_marked_where_it_lies_on_the_axis_and_told_where_not() -> None:
    near = chart(values(0.80, 0.90, 0.75, [0.82, 0.88]), width=20.0)
    assert 0 < near["floor"]["at"] < near["bars"][0]["left"] and not near["floor"]["beyond"]
    far = chart(values(0.80, 0.90, 0.10, [0.82]), width=20.0)
    assert far["floor"]["beyond"] and far["floor"]["text"] == "majority baseline, 10.0"
    above = chart(values(0.80, 0.90, 0.95, [0.82]), width=20.0)
    assert above["bars"][0]["right"] < above["floor"]["at"] < 100


def test_seeds_are_dots_and_one_far_away_does_not_squeeze_the_rest() -> None:
    one = values(0.80, 0.84, 0.0, [0.82, 0.10])
    assert one.width == pytest.approx(12.0, abs=0.1)
    dots = chart(one, one.width)["bars"][0]["seeds"]
    assert len(dots) == 2 and dots[1] <= 0.01


def test_a_card_without_any_spread_is_drawn() -> None:
    flat = chart(values(1.0, 1.0, 0.5, [1.0]), width=1.0)
    assert flat["bars"][0]["dot"] == pytest.approx(50, abs=1)


@pytest.mark.parametrize(("start", "span"), [(0.0, 1.0), (-3.2, 23.0), (49.9, 0.04), (10.0, 500.0)])
def test_ticks_are_few_round_numbers_on_the_axis(start: float, span: float) -> None:
    found = ticks(start, span)
    assert 2 <= len(found) <= 7 and all(start <= tick <= start + span for tick in found)


# Looks


def test_a_look_follows_from_the_name_alone(whole: Report) -> None:
    looks = data_of(whole)["looks"]
    assert looks == {name: [look_of(name).colour, look_of(name).shape] for name in looks}
    # Of published pages; another value would change what they mean.
    published = ("full", "lora", "dora", "vera", "lora_plus", "bitfit")
    assert [look_of(name).colour for name in published] == [7, 0, 9, 2, 8, 11]
    assert look_of("lora").shape == 0


def test_looks_differ_for_nearly_all_methods() -> None:
    names = [path.stem for path in (Path(__file__).parents[2] / "conf/variant").glob("*.yaml")]
    assert len({look_of(name) for name in names}) > 0.8 * len(names)
    assert len(COLOURS) == len(ON_DARK) == len(set(COLOURS)) and len(PATHS) == 8


def test_a_cell_escapes_all_that_it_shows() -> None:
    hostile = "<img src=x>"
    shown = Cell(text=hostile, key=0, letters=hostile, small=hostile, look=hostile).content
    assert "<img" not in shown and shown.count("&lt;img") == 3


# Effective rates


@pytest.mark.parametrize(
    ("value", "told"), [(6.3e-4, "6.3e\u22124"), (2e-5, "2e\u22125"), (0.02, "0.02"), (0.0, "0")]
)
def test_a_rate_is_told_briefly(value: float, told: str) -> None:
    assert words.rate(value) == told


def test_the_effective_rate_is_shown_and_the_stored_setting_stays(tmp_path: Path) -> None:
    assert effective_rate({"variant": {"lr": 4e-4}, "model": {"lr_scale": 10.0}}) == 4e-3
    assert effective_rate({"variant": {"lr": 4e-4}, "model": {}}) == 4e-4
    assert effective_rate({"variant": {}, "model": {"lr_scale": 2.0}}) is None
    study(tmp_path, {"lora": 0.86, "dora": 0.8}, ["sst2"], seeds=4)
    for path in tmp_path.rglob("result.json"):
        content = json.loads(path.read_text())
        content["config"]["model"]["lr_scale"] = 10.0
        path.write_text(json.dumps(content))
    material = gather(tmp_path)
    assert {curve.setting for curve in curves(material)} == {RATE}
    lora = next(curve for curve in curves(material) if curve.method == "lora")
    assert lora.chosen == pytest.approx(1e-3) and lora.points[0][0] == pytest.approx(1e-3)
    html = Report(material).html()
    assert "lr=0.0001" in html and "1e\u22123" in html


# Learning curves and single runs


def test_learning_curves_are_means_over_seeds_at_steps_that_all_have(tmp_path: Path) -> None:
    for seed, losses in enumerate(([1.0, 0.5, 0.25], [0.5, 0.5])):
        write_history(store(tmp_path, "lora", seed, np.arange(100) < 80), losses)
    store(tmp_path, "dora", 0, np.arange(100) < 70)
    report = Report(gather(tmp_path))
    (found,) = learning(report.found, Histories(report.material))
    assert [line["method"] for line in found["lines"]] == ["lora"]
    assert found["lines"][0]["values"]["loss"] == [[10, 0.75, 0.5, 1.0], [20, 0.5, 0.5, 0.5]]
    assert set(found["lines"][0]["values"]) == {"loss", "train_accuracy"}


def test_curves_are_thinned_and_those_of_compared_runs_less(whole: Report) -> None:
    found, runs = data_of(whole), whole.material.runs
    assert all(
        len(line["values"]["loss"]) == POINTS for c in found["learning"] for line in c["lines"]
    )
    sizes = {
        stage: {len(found["runs"]["curves"][1][row][1]) for row in group.index}
        for stage, group in runs.groupby("stage")
    }
    assert sizes == {"test": {FULL}, "select": {FEW}}


def test_a_damaged_history_is_named_and_stops_nothing(tmp_path: Path) -> None:
    for method in ("lora", "dora"):
        place = store(tmp_path, method, 0, np.arange(100) < 80)
        (place / history.NAME).write_text("no json\n")
    html = Report(gather(tmp_path)).html()
    assert html.count("history.jsonl: line 1 is no JSON object.") == 2


@pytest.mark.parametrize("line", ['{"loss": 1.0}', '{"step": true}', '{"step": "1"}', "[1]"])
def test_a_record_without_a_step_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / history.NAME).write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"history\.jsonl: line 2 "):
        history.read(tmp_path)
    assert history.read(tmp_path / "none") == []


def test_thinning_keeps_both_ends() -> None:
    assert history.thin(range(100), 5) == [0, 25, 50, 74, 99]
    assert history.thin([1, 2, 3], 60) == [1, 2, 3] and history.thin(range(9), 2) == [0, 8]


def test_a_run_tells_its_settings_its_command_and_its_files(tmp_path: Path) -> None:
    for seed in range(3):
        for rate in (1e-3, 1e-2):
            config = {"variant": {"lr": rate, "rank": 8}}
            overrides = ["variant=lora", f"variant.lr={rate}", f"seed={seed}"]
            store(tmp_path, "lora", seed, np.arange(99) < 80, config=config, overrides=overrides)
    report = Report(gather(tmp_path))
    found = data_of(report)["runs"]
    settings, places = found["settings"]
    told = [[settings[place] for place in row] for row in places]
    assert {tuple(map(tuple, row)) for row in told} == {
        (("variant.lr", "0.001"),), (("variant.lr", "0.01"),),
    }  # fmt: skip
    assert ["variant.rank", "8"] in found["common"]
    overrides, rows = found["commands"]
    assert [overrides[place] for place in rows[0]] == list(report.material.results[0]["overrides"])
    files, row = found["files"]
    assert files == [["result.json", "predictions.parquet"]] and row == []
    assert data_of(report)["folder"] == "runs"


# A study where it lies


@pytest.mark.parametrize("finished", [True, False])
def test_a_study_is_reported_by_its_own_folder(tmp_path: Path, finished: bool) -> None:
    outputs = study(tmp_path / "outputs", {"lora": 0.9, "dora": 0.8}, ["sst2"], seeds=4)
    other = {"tracker": {"group": "another", "tags": ["clean", "sst2", "lora"]}}
    for seed in range(4):
        store(outputs, "vera", seed, np.arange(400) < 300, config=other)
    own = outputs / "studies/drawn"
    if not finished:
        (own / "summary.json").unlink()
        (own / "study.json").write_text("{}")
    found = Report(gather(own))
    assert found.material.title == "drawn" and found.material.folder == outputs
    assert set(found.material.runs["variant"]) == {"lora", "dora"}
    (one,) = found.found
    assert isinstance(one, Comparison) and set(one.methods["method"]) == {"lora", "dora"}
    assert set(Report(gather(outputs)).material.runs["variant"]) == {"lora", "dora", "vera"}


def test_a_study_without_a_finished_run_is_one_sentence(tmp_path: Path) -> None:
    store(tmp_path, "lora", 0, np.arange(100) < 80)
    (tmp_path / "studies/mine").mkdir(parents=True)
    (tmp_path / "studies/mine/study.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^There is no finished run of study mine yet\.$"):
        gather(tmp_path / "studies/mine")
    # A folder of that name that no study wrote is searched itself.
    (tmp_path / "studies/mine/study.json").unlink()
    with pytest.raises(ValueError, match="There is no finished run below"):
        gather(tmp_path / "studies/mine")
