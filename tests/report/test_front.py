"""The analysis in three calls, as a notebook makes them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stored_runs import store, study

import analysis
from analysis import figures
from analysis.family import Rule
from analysis.front import Comparisons
from experiments.stored import history

METHODS = {"lora": 0.86, "dora": 0.865, "full": 0.93}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("runs") / "outputs", METHODS, ["sst2", "cola"], seeds=6)


@pytest.fixture(scope="module")
def found(folder: Path) -> Comparisons:
    return analysis.compare(folder / "studies/drawn")


def test_results_have_a_column_per_setting_that_differs(folder: Path) -> None:
    table = analysis.load_results(folder)
    assert "variant.lr" in table and table["variant.lr"].dtype == float
    # Of each task its own name, and what a method is, stand in columns of their own already.
    assert not {"train.epochs", "variant._kind_", "protocol._kind_"} & set(table)
    assert (table.groupby(["task", "variant", "seed", "variant.lr", "stage"]).size() == 1).all()
    assert table["score"].dtype == float and len(table) == 2 * 3 * (6 + 3)


def test_a_setting_that_some_runs_lack_differs_too(tmp_path: Path) -> None:
    store(tmp_path, "lora", 0, np.arange(99) < 80, config={"variant": {"rank": 8}})
    store(tmp_path, "dora", 0, np.arange(99) < 80, config={"train": {"epochs": 5.0}})
    table = analysis.load_results(tmp_path).set_index("variant")
    assert table.loc["lora", "variant.rank"] == 8 and pd.isna(table.loc["dora", "variant.rank"])
    assert table["train.epochs"].to_dict() == {"lora": 3.0, "dora": 5.0}


def test_runs_are_grouped_by_every_setting_that_differs(tmp_path: Path) -> None:
    for seed in (0, 1):
        for rate, targets in ((1e-3, ["query"]), (1e-3, ["query", "value"]), (2e-3, ["query"])):
            config = {"variant": {"lr": rate, "targets": targets}}
            store(tmp_path, "lora", seed, np.arange(99) < 80, config=config)
    table = analysis.load_results(tmp_path)
    settings = [name for name in table if "." in name]
    assert settings == ["variant.lr", "variant.targets"]
    assert set(table["variant.targets"]) == {"[query]", "[query,value]"}
    assert (table.groupby(["task", "variant", *settings]).size() == 2).all()


def test_a_comparison_has_numbers_and_settings(found: Comparisons) -> None:
    table = found.table
    assert len(table) == 6 and set(table["method"]) == set(METHODS)
    numbers = ["mean", "low", "high", "baseline", "trained", "train_seconds", "effective_lr"]
    assert all(table[name].dtype == float for name in [*numbers, "variant.lr"])
    best = table[table["task"] == "local/sst2"].iloc[0]
    assert best["method"] == "full" and 0.9 < best["mean"] < 1 and best["baseline"] == 0.5


def test_verdicts_are_every_pair_with_its_task(found: Comparisons) -> None:
    assert found.verdicts.groupby("task").size().to_dict() == {
        "all tasks": 3, "local/cola": 3, "local/sst2": 3,
    }  # fmt: skip
    assert {"a", "b", "difference", "low", "high", "p_adjusted", "outcome"} <= set(found.verdicts)
    one = found.source.found[0].verdicts
    assert one is not None
    own = found.verdicts[found.verdicts["task"] == found.source.found[0].task]
    assert own["difference"].tolist() == one.pairs["difference"].tolist()


def test_a_notebook_shows_answers_and_means(found: Comparisons) -> None:
    said = repr(found)
    assert said.startswith("Over 2 tasks: ") and "majority baseline" in said
    assert all(title in said and text in said for title, text in found.answers.items())
    assert "<table" in found._repr_html_() and "Over 2 tasks" in found._repr_html_()


def test_names_are_escaped_in_a_notebook(tmp_path: Path) -> None:
    for seed in range(3):
        for name in ("<img src=x>", "lora"):
            store(tmp_path, name, seed, np.random.default_rng(seed).random(100) < 0.8)
    assert "<img" not in analysis.compare(tmp_path)._repr_html_()


def test_everything_is_drawn(found: Comparisons, folder: Path) -> None:
    assert found.plot_scores("local/sst2").get_title() == "local/sst2"
    assert found.plot_costs("train_seconds", "local/sst2").get_xlabel() == "training (s)"
    assert len(found.plot_profiles().lines) == 3
    with pytest.raises(ValueError, match=r"^Name one task of 'local/cola · .*; got None\.$"):
        found.plot_scores()
    with pytest.raises(ValueError, match=r"^The cost must be one of trained, .*, got 'money'\.$"):
        found.plot_costs("money", "local/sst2")
    with pytest.raises(ValueError, match=r"log nothing, got 'loss'\.$"):
        found.plot_curves(task="local/sst2")


def test_curves_are_drawn_from_histories(tmp_path: Path) -> None:
    for method in ("lora", "dora"):
        place = store(tmp_path, method, 0, np.random.default_rng(0).random(100) < 0.8)
        lines = [f'{{"step": {n}, "loss": {1 / n}}}\n' for n in (1, 2, 3)]
        (place / history.NAME).write_text("".join(lines))
    axes = analysis.compare(tmp_path).plot_curves()
    assert [line.get_label() for line in axes.lines] == ["dora", "lora"]
    assert axes.lines[0].get_ydata()[0] == 1.0  # pyright: ignore[reportIndexIssue]
    with pytest.raises(ValueError, match=r"log loss, got 'accuracy'\.$"):
        analysis.compare(tmp_path).plot_curves("accuracy")


def test_a_report_is_written(found: Comparisons, tmp_path: Path) -> None:
    path = found.report(tmp_path / "page.html")
    assert path.read_text().startswith("<!doctype html>")


def test_rules_are_given_as_words(folder: Path) -> None:
    beside = analysis.compare(folder, against="lora", alpha=0.1)
    assert set(beside.verdicts["a"]) | set(beside.verdicts["b"]) == set(METHODS)
    assert len(beside.verdicts) == 2 * 3
    with pytest.raises(ValueError, match="against must be one of"):
        _ = analysis.compare(folder, against="lore").verdicts


def test_a_method_alone_has_no_verdicts(tmp_path: Path) -> None:
    store(tmp_path, "lora", 0, np.arange(99) < 80)
    alone = analysis.compare(tmp_path)
    assert alone.verdicts.empty and "a" in alone.verdicts and len(alone.table) == 1
    assert "lora is the only method here" in repr(alone)


def test_arrays_of_outcomes_are_judged() -> None:
    g = np.random.default_rng(0)
    right = {"a": g.random((5, 300)) < 0.9, "b": g.random((5, 300)) < 0.6}
    found = analysis.judge(right)
    assert found.pairs[["a", "b", "outcome"]].to_numpy().tolist() == [["a", "b", "better"]]
    assert found.pairs["difference"].item() == pytest.approx(right["a"].mean() - right["b"].mean())
    lacking = np.where(np.arange(5)[:, None] == 0, np.nan, right["a"])
    fewer = analysis.judge({**right, "a": lacking}, Rule(alpha=0.1))
    assert fewer.pairs["seeds"].item() == 4
    shapes = r"^Every method needs an array .* of one shape, got a \(5, 300\), b \(5, 2\)\.$"
    with pytest.raises(ValueError, match=shapes):
        analysis.judge({**right, "b": np.ones((5, 2))})


def test_figures_are_imported_only_when_they_are_asked_for() -> None:
    code = "import sys, analysis, analysis.load; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = analysis.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_verdicts_are_there_in_words_and_tables_as_they_are_read(found: Comparisons) -> None:
    assert set(found.sentences) == {"local/sst2", "local/cola", "all tasks"}
    first = found.sentences["local/sst2"][0]
    assert first.startswith("6 seeds, ") and first.endswith(" examples, accuracy")
    for name in ("scores", "pairs", "costs", "budgets", "tuning", "tuning costs"):
        assert len(found.as_read(name)) > 0, name
    with pytest.raises(ValueError, match=r"The table must be one of scores, .* got 'cost'"):
        found.as_read("cost")
    (axes,) = found.plot_trade_offs("trained", "train_seconds", task="local/sst2")
    assert figures.root(axes).axes[0].get_xlabel() == "trained parameters"
    assert found.machines and "AMD EPYC" in found.machines[0]
