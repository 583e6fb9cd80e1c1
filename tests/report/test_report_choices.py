"""How settings were chosen, as a report tells it: luck of trials, second choices, lost runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stored_runs import diverged, store, study

from analysis import tuning
from analysis.family import Rule
from analysis.report import sections, words
from analysis.report.choices import budget_curves, chosen_again, has_setting
from analysis.report.comparisons import comparisons
from analysis.report.material import gather
from analysis.report.page import Report
from analysis.tuning import Choice


def test_the_expected_best_of_some_trials_by_force() -> None:
    g = np.random.default_rng(0)
    scores = g.random(7)
    found = tuning.expected_best(scores)
    assert found[0] == pytest.approx(scores.mean()) and found[-1] == scores.max()
    drawn = [scores[g.permutation(7)[:3]].max() for _ in range(20_000)]
    assert found[2] == pytest.approx(np.mean(drawn), abs=0.005)
    assert (np.diff(found) >= 0).all()


def choice(means: list[float], sd: float, rows: float = 0.0) -> Choice:
    size = len(means)
    return Choice(
        means=np.array(means), sd_seeds=sd, by_rows=rows**2 * np.eye(size),
        chosen=int(np.nanargmax(means)),
    )  # fmt: skip


def test_a_choice_among_equals_is_luck_and_a_clear_one_is_not() -> None:
    assert tuning.repeat_plain(choice([0.5] * 4, 0.1), 1) == pytest.approx(0.25, abs=0.03)
    assert tuning.repeat_plain(choice([0.5, 0.9], 0.01), 1) == 1
    assert tuning.repeat_plain(choice([0.5, 0.6, np.nan], 0.0, 0.01), 1) == 1
    close = choice([0.80, 0.81, 0.5, 0.5], 0.01)
    assert tuning.repeat_plain(close, 9) > tuning.repeat_plain(close, 1) + 0.1
    assert tuning.repeat_race(close, 2) > tuning.repeat_plain(close, 1) + 0.05
    # Rows that all points share move all scores alike and change no choice.
    shared = Choice(means=np.array([0.5, 0.51]), sd_seeds=0.0, by_rows=np.ones((2, 2)), chosen=1)
    assert tuning.repeat_plain(shared, 1) == 1


def test_a_setting_is_recognised_in_a_config() -> None:
    config = {"variant": {"lr": 0.001, "rank": 8}, "train": {"clip": None}}
    assert has_setting(config, "variant.lr=0.001") and has_setting(config, "variant.lr=1e-3")
    assert not has_setting(config, "variant.lr=0.01") and not has_setting(config, "variant.ratio=4")
    assert not has_setting(config, "train.clip=1.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    methods = {"lora": 0.86, "dora": 0.865}
    return study(tmp_path_factory.mktemp("runs"), methods, ["sst2"], seeds=5)


def test_the_report_says_whether_a_choice_would_be_made_again(folder: Path, tmp_path: Path) -> None:
    material = gather(folder)
    found = {one.method: one for one in chosen_again(material)}
    assert set(found) == {"lora", "dora"} and all(one.exact for one in found.values())
    assert all(one.repeated is not None and 0 < one.repeated <= 1 for one in found.values())
    frame = sections.tuned(material).frame()
    assert frame["chosen again"].str.fullmatch("[0-9]+\u00a0%").all()
    curves = budget_curves(material)
    assert [curve.points[0][0] for curve in curves] == [1.0, 1.0]
    table = sections.best_of_trials(curves).frame()
    assert list(table)[2:] == ["best of 1", "best of 2", "best of 3"]
    assert "Best of n trials" in Report(material).html()
    for path in folder.rglob("s1000*/predictions.parquet"):
        path.rename(path.with_suffix(".away"))
    try:
        assert not any(one.exact for one in chosen_again(gather(folder)))
        assert sections.tuned(gather(folder)).frame()["chosen again"].str.startswith("~").all()
    finally:
        for path in folder.rglob("s1000*/predictions.away"):
            path.rename(path.with_suffix(".parquet"))


def test_runs_in_the_setting_that_came_second_are_no_other_method(tmp_path: Path) -> None:
    g, cells, rows = np.random.default_rng(0), [], []
    for method, rates in (("lora", (0.001, 0.01)), ("dora", (0.001,))):
        for place, rate in enumerate(rates):
            share = 0.9 if method == "lora" and place == 0 else 0.8
            for seed in range(5):
                tracker = {"group": "raced", "tags": ["clean", "sst2", method]}
                config = {"variant": {"lr": rate}, "tracker": tracker}
                right = g.random(400) < share + 0.005 * seed
                where = store(tmp_path, method, seed, right, config=config)
                cells.append({"folder": str(where), "stage": "test", "choice": place})
        row = {"protocol": "clean", "task": "sst2", "method": method, "metric": "accuracy"}
        rows.append(row | {"trials": 1, "curve": [], "own": None, "tuned": None, "chosen": None,
                           "rival": ["variant.lr=0.01"] if method == "lora" else None,
                           "edge": "", "scores": [], "tuning_seconds": 0.0, "seconds": 0.0,
                           "lost": [], "remarks": []})  # fmt: skip
    content = {"study": "raced", "tuning": "race", "rows": rows, "cells": cells}
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/summary.json").write_text(json.dumps(content))
    (one,) = comparisons(gather(tmp_path), Rule())
    assert set(one.methods["method"]) == {"lora", "dora"} and len(one.runs) == 10
    assert one.scores.settings[one.scores.methods.index("lora")] != (0,)
    assert one.methods.set_index("method").loc["lora", "mean"] > 0.88
    assert one.verdicts is not None
    assert one.verdicts.pairs["outcome"].tolist() == ["not told apart"]
    plain = [cell | {"choice": 0} for cell in cells if "lr" not in cell and cell["choice"] == 0]
    (tmp_path / "studies/summary.json").write_text(json.dumps(content | {"cells": plain}))
    (other,) = comparisons(gather(tmp_path), Rule())
    assert other.verdicts is not None and other.verdicts.pairs["outcome"].tolist() == ["better"]
    assert "lr=0.01" in sections.tuned(gather(tmp_path)).frame()["as good"].tolist()


def test_runs_that_collapsed_are_counted_with_the_share_that_is_still_likely(
    tmp_path: Path,
) -> None:
    g = np.random.default_rng(0)
    for seed in range(8):
        store(tmp_path, "lora", seed, g.random(200) < 0.8)
        store(tmp_path, "dora", seed, np.arange(200) % 2 == 0 if seed < 2 else g.random(200) < 0.8)
    diverged(tmp_path, "dora", 8)
    store(tmp_path, "lora", 8, g.random(200) < 0.8)
    (one,) = comparisons(gather(tmp_path), Rule())
    rows = one.methods.set_index("method")
    assert rows["fallen"].to_dict() == {"lora": 0, "dora": 3}
    assert rows.loc["lora", "fallen_most"] == pytest.approx(1 - 0.05 ** (1 / 9))
    assert rows.loc["dora", "lost"] == 1 and rows.loc["dora", "decile"] < 0.6
    shown = sections.scores([one]).frame().set_index("method")["collapsed"]
    assert shown["lora"] == "0 (up to 28\u00a0%)"
    said = " ".join(words.describe_comparison(one))
    assert "dora diverged in 1 of 9 runs" in said
    assert isinstance(one.methods, pd.DataFrame)
