"""What quality costs: means and intervals, the front, budgets, and stacks that are not mixed."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis import cost, figures

SAME = {
    "task": "sst2", "model": "minilm", "protocol": "clean", "metric": "accuracy",
    "status": "complete", "device": "AMD EPYC", "threads": 1, "processes": 1,
    "products": "highest", "torch": "2.13.0", "code": "e" * 12,
    "seconds": 62.0, "processor_seconds": 60.0, "train_processor_seconds": 58.0,
    "train_flops": 3e12, "adapter_bytes": 4000.0, "adapted_ms": 20.0,
    "merged_ms": 17.0,
}  # fmt: skip


def runs(variant: str, scores: list[float], trained: int, **changes: Any) -> pd.DataFrame:
    """Runs of a method, one a seed; seconds and memory follow from its size."""
    rows = [
        SAME
        | {"variant": variant, "seed": seed, "score": score, "trained": trained}
        | {"train_seconds": 60.0 + seed, "train_peak_mib": 500.0 + trained}
        | changes
        for seed, score in enumerate(scores)
    ]
    return pd.DataFrame(rows)


THREE = pd.concat(
    [runs("small", [0.7, 0.8], 10), runs("middle", [0.6, 0.7], 50), runs("large", [0.8, 0.9], 100)]
)


def test_a_cost_is_a_mean_over_seeds_with_students_interval() -> None:
    row = cost.table(runs("small", [0.7, 0.8, 0.9], 10)).iloc[0]
    half = stats.t.ppf(0.975, 2) * 1.0 / np.sqrt(3)  # seconds are 60, 61 and 62
    assert row["train_seconds"] == 61 and row["seeds"] == 3
    assert row["train_seconds_high"] - row["train_seconds"] == pytest.approx(half)
    assert row["score"] == pytest.approx(0.8) and row["score_low"] < 0.8 < row["score_high"]


def test_one_seed_has_no_interval_and_what_was_not_measured_no_mean() -> None:
    row = cost.table(runs("small", [0.7], 10, train_peak_mib=None)).iloc[0]
    assert np.isnan(row["score_low"]) and np.isnan(row["train_peak_mib"])


def test_runs_that_diverged_cost_nothing_here() -> None:
    assert cost.table(runs("small", [0.7, 0.8], 10, status="diverged")).empty
    assert list(cost.table(runs("small", [0.7], 10, status="diverged")).columns) == cost.COLUMNS


def test_machines_and_stacks_are_kept_apart() -> None:
    both = pd.concat([runs("small", [0.7], 10), runs("small", [0.9], 10, device="Xeon")])
    table = cost.table(both)
    assert table["score"].tolist() == [0.7, 0.9]
    assert [cost.describe(row) for row in cost.stacks(table).to_dict("records")] == [
        "AMD EPYC, 1 thread, float32 products highest, torch 2.13.0, code eeeeeee",
        "Xeon, 1 thread, float32 products highest, torch 2.13.0, code eeeeeee",
    ]
    with pytest.raises(ValueError, match="one machine and stack at a time, got AMD EPYC"):
        cost.front(table, "trained")


@pytest.mark.parametrize("column", ["threads", "processes", "products", "torch", "code"])
def test_everything_that_seconds_depend_on_is_part_of_the_stack(column: str) -> None:
    other = 2 if column in ("threads", "processes") else "other"
    table = cost.table(pd.concat([runs("a", [0.7], 1), runs("a", [0.7], 1, **{column: other})]))
    assert len(table) == 2


def test_on_the_front_is_whom_no_other_beats() -> None:
    table = cost.table(THREE)
    assert table.loc[cost.front(table, "trained"), "variant"].tolist() == ["small", "large"]


def test_twins_are_both_on_the_front() -> None:
    table = cost.table(pd.concat([runs("one", [0.7], 10), runs("two", [0.7], 10)]))
    assert cost.front(table, "trained").all()


def test_the_best_within_a_budget_changes_where_it_buys_something() -> None:
    found = cost.within(cost.table(THREE), "trained")
    assert found["budget"].tolist() == [10, 100]
    assert found["variant"].tolist() == ["small", "large"]
    assert found["score"].tolist() == pytest.approx([0.75, 0.85])


def test_tuning_counts_every_trial_those_that_diverged_too() -> None:
    trials = pd.concat([runs("small", [0.7, 0.8], 10), runs("small", [0.1], 10, status="diverged")])
    row = cost.tuning(trials).iloc[0]
    assert (row["runs"], row["seconds"], row["train_flops"]) == (3, 186.0, 9e12)
    assert row["processor_seconds"] == 180.0


def test_a_sum_of_tuning_is_not_known_where_a_part_is_not() -> None:
    older = runs("small", [0.7], 10, processor_seconds=None)
    row = cost.tuning(pd.concat([runs("small", [0.7], 10), older])).iloc[0]
    assert np.isnan(row["processor_seconds"]) and row["seconds"] == 124.0


def test_a_method_that_trains_nothing_has_a_place_beside_those_of_very_different_sizes() -> None:
    def drawn(*trained: int) -> Axes:
        ends = {key: list(trained) for key in ("trained", "trained_low", "trained_high")}
        return figures.pareto(cost.table(THREE).assign(front=True, **ends), "trained")

    assert drawn(10, 10**4, 10**6).get_xscale() == "log"
    with_none = drawn(0, 10**4, 10**6)
    assert with_none.get_xscale() == "symlog" and with_none.get_xlim()[0] < 0
    assert drawn(0, 10, 20).get_xscale() == "linear"


def test_the_pareto_figure_has_every_method_and_the_front(tmp_path) -> None:
    table = cost.table(THREE)
    table["front"] = cost.front(table, "trained")
    axes = figures.pareto(table, "trained")
    assert isinstance(axes.get_figure(), Figure)
    assert axes.get_xlabel() == "trained parameters" and axes.get_ylabel() == "accuracy"
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["small", "middle", "large"]
    front = axes.get_lines()[-1]
    assert front.get_xdata() == pytest.approx([10, 100])
    assert all(path.stat().st_size for path in figures.save(axes, tmp_path / "pareto"))


def test_the_figure_of_scores_lists_the_best_first_with_letters() -> None:
    table = pd.DataFrame(
        {"method": ["b", "a"], "mean": [0.7, 0.9], "low": [0.6, 0.8], "high": [0.8, 1.0],
         "letters": ["b", "a"]}
    )  # fmt: skip
    axes = figures.scores(table)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a  a", "b  b"]
