"""The report without a browser: what is compared, what is said of it, and that the page says it."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score
from stored_runs import diverged, store, study

from analysis.cost import COUNTED
from analysis.family import Rule
from analysis.ledger import OPEN
from analysis.report import __main__ as command
from analysis.report import charts, costs, export, material, sections, words
from analysis.report.answers import cheaper_rivals, choose_rival
from analysis.report.audits import audits
from analysis.report.comparisons import comparisons, groups_without_results
from analysis.report.material import gather
from analysis.report.overall import overall
from analysis.report.page import Report
from analysis.report.tuning import curves
from analysis.statistics import Outcome, Verdicts
from analysis.task_scores import score_table
from experiments.metrics.base import find_text_metrics
from experiments.running.runner import execute
from experiments.settings.config import Run

QUICK = Rule()
METHODS = {"vera": 0.8, "lora": 0.86, "dora": 0.865, "full": 0.93}
LOST = (
    "{} diverged in {} runs: its score is the mean of the others, which is too high; it is called "
    "better only if it is so with its lost runs scored as the majority baseline, too."
)
NAMESPACE = "http://www.w3.org/2000/svg"
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'`_%$#{}|\\"


def right(share: float, examples: int = 300, seed: int = 0) -> np.ndarray:
    """Which examples a run got right: this share of them."""
    return np.random.default_rng(seed).permutation(examples) < share * examples


class Page(HTMLParser):
    """Tables by name as lists of rows, addresses, and the text that can be read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text, self.table, self.cell, self.hidden = "", "", False, False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append(tag)
        self.ids += [known["id"] or ""] if "id" in known else []
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.hidden = tag in ("script", "style")
        if tag == "table":
            self.table = (known["id"] or "").removeprefix("table-")
            self.tables[self.table] = []
        if tag == "tr":
            self.tables[self.table].append([])
        self.cell = tag in ("th", "td") or (self.cell and tag == "button")
        if tag in ("th", "td"):
            self.tables[self.table][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.cell = False if tag in ("th", "td") else self.cell
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.tables[self.table][-1][-1] += data.strip()
        if not self.hidden:
            self.text += data

    def column(self, table: str, title: str) -> list[str]:
        """The cells of a column."""
        heads, *rows = self.tables[table]
        return [row[heads.index(title)] for row in rows]

    @property
    def said(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())


def report(folder: Path) -> Report:
    return Report(gather(folder), QUICK)


def page(folder: Path) -> Page:
    return Page(report(folder).html())


def chart_data(html: str) -> dict[str, Any]:
    """The data of a page's charts and of its table of runs."""
    found = re.search(r'id="data">(.*?)</script>', html, re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four methods on two tasks, and a method alone that diverged once."""
    folder = study(tmp_path_factory.mktemp("runs"), METHODS, ["sst2", "cola"], seeds=6)
    for seed in range(3):
        store(folder, "lora", seed, right(0.7, seed=seed), task="local/rte")
    diverged(folder, "lora", 3, task="local/rte")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Report:
    return report(folder)


@pytest.fixture(scope="module")
def html(whole: Report) -> str:
    return whole.html()


# What is compared


def test_only_tested_runs_are_compared(whole: Report) -> None:
    assert set(whole.material.runs["stage"]) == {"test", "select"}
    assert {one.group: len(one.runs) for one in whole.found} == {
        "local/cola · minilm · clean": 24,
        "local/sst2 · minilm · clean": 24,
        "local/rte · minilm · clean": 3,
    }


def test_a_method_alone_has_a_score_and_no_verdict(whole: Report) -> None:
    alone = next(one for one in whole.found if one.task == "local/rte")
    assert alone.verdicts is None
    assert alone.methods["mean"].item() == pytest.approx(0.7)
    assert alone.methods["low"].item() < 0.7 < alone.methods["high"].item()
    assert alone.left_out == [LOST.format("lora", "1 of 4")]


def test_tasks_that_share_methods_and_seeds_are_judged_together(whole: Report) -> None:
    (both,) = whole.overall
    assert both.tasks == ("local/cola", "local/sst2") and both.seeds == tuple(range(6))
    assert both.methods["method"].iloc[0] == "full"
    assert (both.methods["low"] <= both.methods["mean"]).all()
    assert (both.methods["mean"] <= both.methods["high"]).all()


def standardised(table: pd.DataFrame) -> pd.DataFrame:
    """Scores by method, task and seed in standard deviations of all runs of the task."""
    parts = {task: part for task, part in table.T.groupby(level="task")}
    scaled = [
        (part - part.to_numpy().mean()) / part.to_numpy().std(ddof=1) for part in parts.values()
    ]
    return pd.concat(scaled).T


def test_over_tasks_the_chance_to_win_and_the_shares_above_a_score_are_told(whole: Report) -> None:
    (both,) = whole.overall
    table = score_table(
        whole.material.tested[lambda runs: runs["task"] != "local/rte"].assign(
            variant=lambda runs: runs["method"]
        )
    )
    chances = both.improvement
    assert len(chances) == 6 and (chances["a"] != chances["b"]).all()
    for row in chances.to_dict("records"):
        first, second = (table.loc[row[side]].unstack("task").to_numpy() for side in ("a", "b"))
        wins = [
            np.mean([(x > y) + 0.5 * (x == y) for x in first[:, n] for y in second[:, n]])
            for n in range(2)
        ]
        assert row["chance"] == pytest.approx(np.mean(wins))
        assert np.isnan(row["low"]) or row["low"] <= row["chance"] <= row["high"]
        assert np.isnan(row["low"]) == (row["chance"] in (0.0, 1.0))
    apart = standardised(table)
    for method, group in both.profile.groupby("method"):
        scores = apart.loc[method].to_numpy()
        shares = [np.mean(scores > at) for at in group["threshold"]]
        assert group["share"].to_numpy() == pytest.approx(np.array(shares), abs=0.1)
        assert group["share"].iloc[0] == 1.0 and group["share"].iloc[-1] == 0.0
        assert (group["low"] <= group["share"]).all() and (group["share"] <= group["high"]).all()


def test_a_method_with_few_seeds_does_not_take_them_from_the_others(tmp_path: Path) -> None:
    for seed in range(4):
        store(tmp_path, "lora", seed, right(0.8, seed=seed))
        store(tmp_path, "dora", seed, right(0.8, seed=seed + 10))
    store(tmp_path, "vera", 0, right(0.8, seed=20))
    (one,) = comparisons(gather(tmp_path), QUICK)
    assert one.seeds == (0, 1, 2, 3) and set(one.methods["method"]) == {"lora", "dora", "vera"}
    assert one.left_out == ["vera has 1 seed of 4: its pairs are judged by these."]
    assert one.verdicts is not None
    seeds = {frozenset((row.a, row.b)): row.seeds for row in one.verdicts.pairs.itertuples()}
    assert seeds[frozenset(("lora", "dora"))] == 4 and sorted(seeds.values()) == [1, 1, 4]


def test_what_one_name_stands_for_twice_is_told_apart_by_its_settings(tmp_path: Path) -> None:
    for seed in range(2):
        for lr in (0.001, 0.01):
            store(tmp_path, "lora", seed, right(0.8, seed=seed), config={"variant": {"lr": lr}})
    (one,) = comparisons(gather(tmp_path), QUICK)
    assert set(one.methods["method"]) == {"lora [lr=0.001]", "lora [lr=0.01]"}


def test_what_does_not_count_over_all_tasks_is_said(tmp_path: Path) -> None:
    for seed in range(4):
        for place, method in enumerate(("lora", "dora", "vera")):
            for task in ("local/sst2", "local/cola"):
                if (method, task) != ("vera", "local/cola"):
                    kept = right(0.8, seed=10 * place + seed)
                    store(tmp_path, method, seed, kept, task=task)
    diverged(tmp_path, "dora", 4, task="local/cola")
    for seed in range(4):
        store(tmp_path, "lora", seed, right(0.7, seed=seed), task="local/rte")
        store(tmp_path, "bitfit", seed, right(0.7, seed=seed), task="local/rte")
    (whole,) = report(tmp_path).overall
    assert whole.tasks == ("local/cola", "local/sst2")
    assert whole.left_out == [
        f"local/cola: {LOST.format('dora', '1 of 5')}",
        "local/cola: lora has 4 seeds of 5: its pairs are judged by these.",
        "local/rte · minilm · clean is left out: it shares too few methods with the other tasks.",
        "vera is left out: it has local/sst2, and not all of the tasks.",
    ]


def test_costs_of_each_machine_stand_beside_the_scores_of_all_seeds(tmp_path: Path) -> None:
    for seed in range(4):
        machine = {"provenance": {"device": "a GPU" if seed == 3 else "a laptop"}}
        for place, method in enumerate(("lora", "dora")):
            kept = right(0.9 if seed == 3 and method == "lora" else 0.7, seed=10 * place + seed)
            store(tmp_path, method, seed, kept, **machine)
    found = report(tmp_path)
    (one,), means = found.found, found.found[0].methods.set_index("method")["mean"]
    assert len(found.one_by_one) == 2 and set(one.seeds) == {0, 1, 2, 3}
    for _, table in found.one_by_one:
        assert table.set_index("variant")["score"].to_dict() == pytest.approx(means.to_dict())
    for chart in charts.pareto(found.one_by_one):
        assert {p["method"] for p in chart["points"] if "trained" in p["front"]} == {"lora"}
    assert "a GPU" in found.html()


def test_within_a_budget_nothing_is_alike_where_nothing_can_be_decided(tmp_path: Path) -> None:
    for place, method in enumerate(("lora", "dora", "vera")):
        store(tmp_path, method, 0, right(0.8, seed=place))
    (one,) = report(tmp_path).found
    assert costs.peers(one, "lora", {"dora", "vera"}) == "cannot be decided"
    assert costs.peers(one, "lora", set()) is None


def test_runs_that_were_not_treated_alike_are_remarked_upon(tmp_path: Path) -> None:
    few = {"variant": {"rank": 8, "alpha": 8.0, "targets": ["query", "value"]}}
    many = {"variant": {"rank": 64, "alpha": 8.0, "targets": ["dense", "query", "value"]}}
    sizes = {"parameters": {"trained": 10**6}}
    for seed in range(3):
        store(tmp_path, "lora", seed, right(0.8, seed=seed), config=few)
        store(tmp_path, "vera", seed, right(0.8, seed=seed + 5), config=few)
        other = {"packages": {"numpy": "1.0"}}
        store(tmp_path, "dora", seed, right(0.8, seed=seed + 9), config=many, cost=sizes,
              provenance=other)  # fmt: skip
    diverged(tmp_path, "lora", 3, config=few)
    found = report(tmp_path)
    (one,) = audits(found.material, found.found)
    assert one.remarks == [
        "dora: package numpy 1.0 (others 2.4.6)",
        "dora: targets dense, query, value (others query, value)",
        "dora: scale 0.125 (others 1.0)",
        "dora: 1,000,000 trained parameters, 13.6 times more than lora (73,728)",
    ]
    assert one.lost[0] == LOST.format("lora", "1 of 4")


def test_runs_that_are_scored_otherwise_are_another_comparison(tmp_path: Path) -> None:
    for seed in range(3):
        kept = right(0.8, seed=seed)
        labels = np.arange(len(kept)) % 2
        by_f1 = {"metric": "f1", "score": f1_score(labels, np.where(kept, labels, 1 - labels))}
        for metric, primary in (("accuracy", {}), ("f1", by_f1)):
            config = {"task": {"metrics": [metric]}}
            for method in ("lora", "dora"):
                store(tmp_path / metric, method, seed, kept, primary=primary, config=config)
    assert [one.group for one in report(tmp_path).found] == [
        'local/sst2 · minilm · clean · metrics=["accuracy"]',
        'local/sst2 · minilm · clean · metrics=["f1"]',
    ]


def test_one_method_can_be_what_the_others_are_compared_with(tmp_path: Path) -> None:
    for seed in range(3):
        for place, method in enumerate(("lora", "dora", "vera")):
            store(tmp_path, method, seed, right(0.8, seed=10 * place + seed))
    found = Report(gather(tmp_path), Rule(against="lora"))
    verdicts = found.found[0].verdicts
    assert verdicts is not None and len(verdicts.pairs) == 2
    assert "with lora on" in found.html()


def test_a_task_without_that_method_has_scores_and_no_verdict(tmp_path: Path) -> None:
    for seed in range(3):
        for place, (task, method) in enumerate(product(("sst2", "cola"), ("lora", "dora", "vera"))):
            if (task, method) != ("cola", "lora"):
                kept = right(0.8, seed=10 * place + seed)
                store(tmp_path / task, method, seed, kept, task=f"local/{task}")
    found = Report(gather(tmp_path), Rule(against="lora"))
    assert [one.verdicts is None for one in found.found] == [True, False] and not found.overall
    assert "lora has no runs here, so nothing is compared with it." in found.html()
    assert words.describe_comparison(found.found[0])[0] == "There is no comparison here."
    assert (
        words.describe_comparison(found.found[1])[0]
        == "None of the others can be told apart from lora."
    )
    with pytest.raises(
        ValueError, match=r"^against must be one of dora, lora, vera, got 'lore'\.$"
    ):
        Report(gather(tmp_path), Rule(against="lore")).html()


def test_intervals_say_what_they_cover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method, seed in product(("lora", "dora"), range(3)):
        store(tmp_path / "runs", method, seed, right(0.8, seed=seed))
    out = ["--out", tmp_path / "page.html", "--tables", tmp_path, "--alpha", "0.1"]
    call(monkeypatch, tmp_path / "runs", *out)
    assert "Lines are 90 % intervals of each" in (tmp_path / "page.html").read_text()
    for name in ("scores.md", "scores.tex"):
        assert "Means and their 90 % intervals" in (tmp_path / name).read_text()


def test_what_is_missing_of_a_run_is_named(tmp_path: Path) -> None:
    place = store(tmp_path, "lora", 0, right(0.8))
    (place / "predictions.parquet").unlink()
    with pytest.raises(ValueError, match=r"predictions\.parquet is absent, and a run is compared"):
        report(tmp_path).html()
    (place / "result.json").write_text('{"schema": 2, "status": "complete"}')
    with pytest.raises(ValueError, match=r"result\.json: status is missing\.$|label is missing\.$"):
        report(tmp_path)
    (place / "result.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"result\.json must hold one JSON object\.$"):
        report(tmp_path)


def test_a_method_that_learned_nothing_is_named(tmp_path: Path) -> None:
    for seed in range(4):
        store(tmp_path, "lora", seed, right(0.8, seed=seed))
        store(tmp_path, "dora", seed, right(0.5, seed=seed + 10))
        store(tmp_path, "vera", seed, np.arange(len(right(0.5))) % 2 == 0)  # says 0 of all
    (one,) = comparisons(gather(tmp_path), QUICK)
    assert one.floor == pytest.approx(0.5) and one.not_above_floor == ["dora", "vera"]
    warning = "No evidence that dora and vera beat the majority baseline (50.0)."
    assert words.warn_not_above_floor(one) == [warning]
    assert warning in page(tmp_path).said


def test_other_data_is_another_comparison(tmp_path: Path) -> None:
    store(tmp_path, "lora", 0, right(0.8))
    changes = {"fingerprint": {"data": {"dev": "f" * 64}}, "config": {"data": {"noise": 0.1}}}
    store(tmp_path, "dora", 0, right(0.8), **changes)
    groups = [one.group for one in comparisons(gather(tmp_path), QUICK)]
    assert len(groups) == 2 and "local/sst2 · minilm · clean · noise=0.1" in groups


def test_of_two_runs_of_the_same_settings_and_seed_the_last_counts(tmp_path: Path) -> None:
    store(tmp_path / "old", "lora", 0, right(0.5))
    store(
        tmp_path / "new",
        "lora",
        0,
        right(0.8),
        provenance={"finished": "2026-02-01T00:00:00+00:00"},
    )
    (one,) = comparisons(gather(tmp_path), QUICK)
    assert one.methods["mean"].item() == pytest.approx(0.8)
    assert one.left_out == ["1 run of the same settings and seed ended earlier; the last counts."]


def test_runs_are_gathered_from_several_folders(tmp_path: Path) -> None:
    folders = [
        store(tmp_path / place, method, 0, right(0.8))
        for place, method in (("here", "lora"), ("there", "dora"), ("there", "vera"))
    ]
    material = gather(*folders[:2])
    assert set(material.tested["method"]) == {"lora", "dora"}
    assert material.folder == tmp_path
    assert gather(tmp_path / "there").folder == tmp_path / "there"
    with pytest.raises(ValueError, match="no finished run below"):
        gather(folders[0], tmp_path / "nowhere")


def test_a_run_that_its_study_no_longer_lists_is_not_compared(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "moved")
    summary = tmp_path / "moved/studies/drawn/summary.json"
    content = json.loads(summary.read_text())
    content["cells"] = [c for c in content["cells"] if "/full/" not in c["folder"]]
    summary.write_text(json.dumps(content))
    runs = gather(tmp_path / "moved").runs
    assert set(runs.loc[runs["variant"] == "full", "stage"]) == {"stale"}
    assert "18 runs are not compared: the summary of their study does not list them." in (
        page(tmp_path / "moved").said
    )


def test_trials_under_the_papers_protocol_are_known_by_list_or_seed(tmp_path: Path) -> None:
    paper = {"protocol": {"_target_": "experiments.settings.protocol.Paper", "stage": None}}
    tracker = {"tracker": {"group": "running", "tags": ["paper", "sst2", "lora"]}}
    store(tmp_path, "lora", 1000, right(0.8), config=paper | tracker)
    store(tmp_path, "lora", 0, right(0.8), config=paper | tracker)
    assert gather(tmp_path).runs.set_index("seed")["stage"].to_dict() == {1000: "select", 0: "test"}


def test_where_everything_diverged_that_is_said(tmp_path: Path) -> None:
    diverged(tmp_path, "lora", 0)
    material = gather(tmp_path)
    assert comparisons(material, QUICK) == [] and overall([], QUICK) == []
    said = ["local/sst2 · minilm · clean: 1 run diverged, none came to its end."]
    assert groups_without_results(material) == said and said[0] in page(tmp_path).said


def test_selection_runs_alone_have_curves_and_no_verdict(tmp_path: Path) -> None:
    for lr, share in ((0.001, 0.7), (0.01, 0.8)):
        config = {"variant": {"lr": lr}, "protocol": {"stage": "select"}}
        store(tmp_path, "lora", 1000, right(share), config=config)
    (curve,) = curves(gather(tmp_path))
    assert curve.points == ((0.001, pytest.approx(0.7)), (0.01, pytest.approx(0.8)))
    assert curve.chosen == 0.01
    assert "No run has been tested to its end yet" in page(tmp_path).said


def test_published_predictions_of_texts_need_no_texts(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(1, 9, (12, 9)).astype(float)
    score = float(find_text_metrics(["BLEU"])[0].of_sums(counts.sum(axis=0), 12))
    primary = {"metric": "BLEU", "score": score, "interval": [0.0, 1.0], "examples": 12}
    for seed in (0, 1):
        place = store(tmp_path, "lora", seed, right(0.5, 12), "local/e2e", primary=primary)
        frame = pd.DataFrame({"split": "test", "id": range(12), "BLEU": counts.tolist()})
        frame.to_parquet(place / "predictions.parquet")
    (one,) = comparisons(gather(tmp_path), QUICK)
    assert one.metric == "BLEU" and one.methods["mean"].item() == pytest.approx(score)


# What is said


ROW = {"note": "", "seeds": 5, "within": False}


def verdicts(
    letters: dict[str, str], claims: Sequence[tuple], test: str = "crossed", **changes: Any
) -> Verdicts:
    """Verdicts by hand: means fall, claims are (a, b, difference, outcome)."""
    rule = Rule(test=test, against=changes.pop("against", None))
    methods = pd.DataFrame(
        {
            "method": list(letters),
            "mean": [0.9 - 0.01 * place for place in range(len(letters))],
            "letters": list(letters.values()),
            "loses": changes.pop("loses", np.nan),
            "chance_best": changes.pop("chance_best", np.nan),
            "trained": [4000 - 1000 * place for place in range(len(letters))],
        }
    )
    rows = [dict(zip(("a", "b", "difference", "outcome"), claim, strict=True)) for claim in claims]
    pairs = pd.DataFrame([ROW | row for row in rows]).assign(**changes.pop("pairs", {}))
    given = {"detectable": (0.03, 0.041), "margin": None, "weights": np.ones(1)} | changes
    return Verdicts(family="", rule=rule, pairs=pairs, methods=methods, **given)


NOT, BETTER, NEVER = Outcome.NOT_TOLD_APART, Outcome.BETTER, Outcome.UNDECIDABLE
THREE = [("x", "y", 0.01, NOT), ("x", "z", 0.02, NOT), ("y", "z", 0.01, NOT)]
ALIKE = verdicts({"x": "a", "y": "a", "z": "a"}, THREE, loses=[0.01, 0.02, 0.03],
                 chance_best=[0.7, 0.2, 0.1])  # fmt: skip
NEAR = verdicts({"x": "a", "y": "a", "z": "a"}, THREE, loses=[0.01, 0.02, 0.03], margin=0.02,
                chance_best=[0.7, 0.2, 0.1], pairs={"within": [True, False, True]})  # fmt: skip
TOP = verdicts({"x": "a", "y": "b", "z": "b"}, [("x", "y", 0.05, BETTER), ("x", "z", 0.07, BETTER), ("y", "z", 0.02, NOT)], loses=[0.0, 0.06, 0.08])  # fmt: skip # noqa: E501
CHAIN = verdicts({"x": "a", "y": "ab", "z": "b"}, [("x", "y", 0.02, NOT), ("x", "z", 0.05, BETTER), ("y", "z", 0.02, NOT)], loses=[0.02, 0.04, 0.07], chance_best=[0.8, 0.19, 0.01])  # fmt: skip # noqa: E501
NO_SEEDS = verdicts({"x": "a", "y": "a"}, [("x", "y", 0.2, NEVER)], pairs={"seeds": 2})
FLOOR = verdicts({"x": "a", "y": "a"}, [("x", "y", 0.2, NEVER)], "sign_flip")
SAME = verdicts({"x": "a", "y": "a"}, [("x", "y", 0.0, NOT)], detectable=(np.nan, np.nan))
WIDE = verdicts({"x": "a", "y": "a"}, [("x", "y", 0.0, NOT)], detectable=(0.5, np.inf))
EXACT = verdicts({"x": "a", "y": "a"}, [("x", "y", 0.01, NOT)], "wilcoxon")
WITH_Y = verdicts({"x": "", "y": "", "z": ""}, [("x", "y", 0.05, BETTER), ("y", "z", 0.07, BETTER)], against="y")  # fmt: skip # noqa: E501
NO_BREAK = words.NO_BREAK
POWER = "80 % power to detect a true difference between any two: from 3.0 to 4.1 points on."


@pytest.mark.parametrize(
    "found, headline, sentences",
    [
        (ALIKE, "x is the most likely best method (70 %); it may lose up to 1.0 points. Of those not shown to be worse, z trains the fewest parameters (2k), but may lose up to 3.0 points.", ["The 3 methods cannot be told apart.", POWER]),  # noqa: E501
        (NEAR, "The safe choice is y: of the 2 methods that lose at most 2.0 points it trains the fewest parameters (3k). It loses at most 2.0 points to the best.", ["The 3 methods cannot be told apart.", "The same within 2.0 points: x and y; y and z.", POWER]),  # noqa: E501
        (TOP, "The safe choice is x: it is at least as good as any other, at 95 % confidence.", ["x is better than all others.", "x is better than y and z, by 5.0 to 7.0 points.", "y and z cannot be told apart.", POWER]),  # noqa: E501
        (CHAIN, "x is the most likely best method (80 %); it may lose up to 2.0 points. Of those not shown to be worse, y trains the fewest parameters (3k), but may lose up to 4.0 points.", ["1 pair of 3 differs; none is shown to be better than x or y.", "x is better than z, by 5.0 points.", "x and y cannot be told apart.", "y and z cannot be told apart.", POWER]),  # noqa: E501
        (NO_SEEDS, "Nothing can be decided.", ["With 2 common seeds too little is known of how seeds differ: a verdict needs 3 seeds, and five or more to detect differences that are not large."]),  # noqa: E501
        (FLOOR, "Nothing can be decided.", ["The exact test has 5 pairs of runs for 1 comparison: even if every pair pointed the same way, p would stay above 0.05."]),  # noqa: E501
        (SAME, "x has the highest mean. Of those not shown to be worse, y trains the fewest parameters (3k).", ["The two methods cannot be told apart.", "Nothing varied, so it is not known which difference could have been detected."]),  # noqa: E501
        (WIDE, "x has the highest mean. Of those not shown to be worse, y trains the fewest parameters (3k).", ["The two methods cannot be told apart.", "80 % power to detect a true difference between any two: from 50.0 points on, or from a larger one on; so few seeds cannot tell."]),  # noqa: E501
        (EXACT, "x has the highest mean. Of those not shown to be worse, y trains the fewest parameters (3k).", ["The two methods cannot be told apart."]),  # noqa: E501
        (WITH_Y, "Of 2 methods 1 is better than y and 1 is worse than y.", ["x is better than y, by 5.0 points.", "y is better than z, by 7.0 points.", POWER.replace("any two", "y and any other")]),  # noqa: E501
    ],
    ids=["alike", "near", "top", "chain", "two seeds", "floor", "same", "wide", "exact", "with y"],
)  # fmt: skip
def test_a_verdict_is_put_into_words(found: Verdicts, headline: str, sentences: list[str]) -> None:
    said = " ".join(words.advice(found, found.methods, [], "accuracy"))
    assert said.replace(NO_BREAK, " ") == headline
    assert [said.replace(NO_BREAK, " ") for said in words.sentences(found, "accuracy")] == sentences


def test_of_cheap_methods_the_one_that_is_sure_to_lose_least_is_recommended() -> None:
    claims = [(a, b, 0.01, NOT) for a, b in (("x", "y"), ("x", "z"), ("y", "z"))]
    found = verdicts({"x": "a", "y": "a", "z": "a"}, claims, loses=[0.01, 0.06, 0.04])
    learned = found.methods.assign(trained=[4000, 1000, 1000]).set_index("method")
    assert choose_rival(cheaper_rivals("x", found, learned), found) == "z"  # y has the higher mean
    unknown = learned.assign(loses=np.nan)
    assert choose_rival(cheaper_rivals("x", found, unknown), found) == "y"


def test_many_methods_are_counted_and_not_listed() -> None:
    names = [f"m{number:02}" for number in range(20)]
    told = [(a, "m19", 0.1, BETTER) for a in names[:-1]]
    told += [(names[0], name, 0.05, BETTER) for name in names[13:19]]
    letters = dict.fromkeys(names[1:13], "ab") | dict.fromkeys(names[13:19], "b")
    found = verdicts({"m00": "a"} | letters | {"m19": "c"}, told)
    said = words.sentences(found, "accuracy")
    assert (
        said[0] == "25 pairs of 25 differ; 13 of 20 methods are not shown to be worse than another."
    )
    assert said[1] == (
        "m19 is worse than 19 methods, m13 than 1, m14 than 1, m15 than 1, m16 than 1, m17 than 1 "
        "and 1 method than at most 1. The letters show which."
    )
    assert said[2] == "2 groups of methods cannot be told apart; the letters show which."


def test_a_method_that_learned_nothing_is_never_recommended() -> None:
    said = words.headline(NEAR, NEAR.methods, ["y"], "accuracy")
    assert said.replace(NO_BREAK, " ") == (
        "The safe choice is x: it loses at most 1.0 points to the best."
    )
    none = words.headline(NEAR, NEAR.methods, ["x", "y", "z"], "accuracy")
    assert none == (
        "No evidence that any method beats the majority baseline, so none is recommended."
    )


def test_all_that_is_said_of_a_comparison_stands_together(whole: Report) -> None:
    for one in whole.found:
        advice = words.advice(one.verdicts, one.methods, one.not_above_floor, one.metric)
        told = words.describe_comparison(one)
        assert told[: len(advice)] == advice and advice[0] == words.headline(
            one.verdicts, one.methods, one.not_above_floor, one.metric
        )
        if one.verdicts is None:
            assert told[len(advice) :] == one.left_out and one.left_out
        else:
            assert told[len(advice) :] == words.sentences(one.verdicts, one.metric)


def test_letters_of_a_second_round_are_read_as_one_letter() -> None:
    assert words.split("aza1b1") == ["a", "z", "a1", "b1"]
    assert sorted(["a1", "z", "b"], key=words.order) == ["b", "z", "a1"]


def test_many_letters_in_a_row_are_read_as_a_span() -> None:
    assert words.span("ab") == "ab" and words.span("") == "" and words.span("abc") == "abc"
    assert words.span("abcdx") == "a-d x" and words.span("yza1b1") == "y-b1"


def test_scores_that_are_no_shares_are_not_in_percent() -> None:
    assert [words.score(0.5, "accuracy"), words.score(5.25, "NIST")] == ["50.0", "5.25"]
    assert words.score(-0.1, "matthews") == "\u221210.0" and words.score(None, "") == "\u2013"


def test_one_seed_decides_nothing_and_gives_no_letters(tmp_path: Path) -> None:
    store(tmp_path, "lora", 0, right(0.9))
    store(tmp_path, "dora", 0, right(0.5))
    (one,) = comparisons(gather(tmp_path), QUICK)
    assert one.methods["letters"].tolist() == ["", ""]
    said = page(tmp_path)
    assert "Nothing can be decided." in said.said
    assert said.column("pairs", "verdict") == ["undecidable"]


def test_a_study_says_in_what_methods_were_not_treated_alike(whole: Report) -> None:
    found = audits(whole.material, whole.found)
    assert [audit.title for audit in found] == ["sst2 · clean", "cola · clean"]
    assert all("tuning included" in audit.source for audit in found)


def test_plain_runs_are_audited_by_what_they_say_themselves(tmp_path: Path) -> None:
    for variant, epochs in (("lora", 3.0), ("dora", 3.0), ("vera", 5.0)):
        store(tmp_path, variant, 0, right(0.8), config={"train": {"epochs": epochs}})
    (audit,) = audits(material := gather(tmp_path), comparisons(material, QUICK))
    assert audit.remarks == ["vera: train.epochs 5.0 (others 3.0)"]


def test_seconds_of_two_machines_are_never_one_number(tmp_path: Path) -> None:
    for seed, device in enumerate(("AMD EPYC", "Xeon")):
        for variant in ("lora", "dora"):
            store(tmp_path, variant, seed, right(0.8, seed=seed), provenance={"device": device})
    said = page(tmp_path)
    assert "come from 2 machines or stacks of software" in said.said
    assert sorted(said.column("measured", "machine and stack")) == ["AMD EPYC"] * 2 + ["Xeon"] * 2
    assert said.column("costs", "method") == ["dora", "lora"]
    assert len(charts.pareto(report(tmp_path).one_by_one)) == 2
    (chart,) = charts.pareto(report(tmp_path).counted, COUNTED)
    assert chart["stack"] == "" and {point["method"] for point in chart["points"]} == {
        "lora",
        "dora",
    }


# The page


def test_the_page_has_its_sections_and_every_name_once(html: str) -> None:
    found = Page(html)
    sections = {"answer", "leaders", "verdicts", "scores", "cost", "learning", "tuning", "audit"}
    sections |= {"ledger", "runs", "environment"}
    assert sections <= set(found.ids)
    own = [name for name in found.ids if name.startswith("table-") or name in sections]
    assert len(own) == len(set(own))
    assert {a[1:] for a in found.addresses if a.startswith("#")} >= sections


def test_the_page_asks_for_nothing_from_outside(html: str) -> None:
    found = Page(html)
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    assert not re.findall(r"https?://|//[a-z]", html.replace(NAMESPACE, ""))
    assert "@import" not in html and not re.findall(r"url\((?!['\"]?#)", html)
    assert not set(found.tags) & {"link rel=stylesheet", "iframe", "object", "embed", "base"}


def test_the_table_of_scores_holds_the_scores(whole: Report, html: str) -> None:
    found = Page(html)
    expected = [
        (one.task, row["method"], words.score(row["mean"], one.metric), row["letters"] or "\u2013")
        for one in whole.found
        for row in one.methods.to_dict("records")
    ]
    columns = [found.column("scores", title) for title in ("task", "method", "score", "group")]
    assert list(zip(*columns, strict=True)) == expected


def test_a_table_is_a_frame_of_what_is_read(whole: Report, html: str) -> None:
    table = sections.scores(whole.found)
    frame = table.frame()
    heads, *rows = Page(html).tables["scores"]
    assert list(frame) == heads and frame.to_numpy().tolist() == rows
    assert sections.scores([]).frame().empty


def test_the_table_of_runs_holds_every_run(whole: Report, html: str) -> None:
    found, runs = chart_data(html)["runs"], whole.material.runs
    assert found["seed"] == runs["seed"].tolist()
    values, places = found["texts"]["status"]
    assert [values[place] for place in places].count("diverged") == 1
    folders = [Path(place).relative_to(whole.material.folder) for place in runs["folder"]]
    assert found["folder"] == list(map(str, folders))
    assert found["score"][0] == pytest.approx(100 * runs["score"].iloc[0], rel=1e-4)


def test_the_table_of_pairs_holds_every_pair(whole: Report, html: str) -> None:
    pairs = sum(len(one.verdicts.pairs) for one in whole.found if one.verdicts is not None)
    assert len(Page(html).tables["pairs"]) == pairs + 1


def test_the_environment_names_packages_code_and_data(html: str) -> None:
    what = Page(html).column("environment", "what")
    for fact in (
        "package torch",
        "code",
        "commit",
        "device",
        "data local/sst2 dev",
        "weights minilm",
    ):
        assert fact in what


def test_the_same_runs_give_the_same_page(folder: Path, html: str) -> None:
    assert report(folder).html() == html


def test_the_data_of_the_charts_are_those_of_the_tables(whole: Report) -> None:
    chart = charts.pareto(whole.one_by_one)[0]
    one = whole.found[0]
    assert chart["title"] == one.group
    means = {row["method"]: row["mean"] for row in one.methods.to_dict("records")}
    for point in chart["points"]:
        assert point["score"][0] == pytest.approx(100 * means[point["method"]], rel=1e-5)
    lines = charts.tuning(curves(whole.material))
    assert [(c["title"], len(c["lines"])) for c in lines] == [
        ("sst2 · clean", 4),
        ("cola · clean", 4),
    ]


def test_trials_of_two_studies_are_two_charts(tmp_path: Path) -> None:
    for name, shares in (("one", (0.7, 0.8)), ("two", (0.9, 0.6))):
        for lr, share in zip((0.001, 0.01), shares, strict=True):
            changes = {"variant": {"lr": lr}, "protocol": {"stage": "select"}}
            config = changes | {"tracker": {"group": name, "tags": ["clean", "sst2", "lora"]}}
            store(tmp_path / name, "lora", 1000, right(share), config=config)
    found = curves(gather(tmp_path))
    assert [curve.chosen for curve in found] == [0.01, 0.001]
    assert [c["title"] for c in charts.tuning(found)] == [
        "local/sst2 · minilm · clean · one",
        "local/sst2 · minilm · clean · two",
    ]


def test_a_perfect_score_is_not_certain(tmp_path: Path) -> None:
    for method, seed in product(("lora", "dora"), range(3)):
        store(tmp_path, method, seed, right(1.0 if method == "lora" else 0.9, seed=seed))
    found = report(tmp_path).found
    assert "| 100.0 " in export.markdown(found) and "100.0 [" not in export.markdown(found)
    table = export.long(found).set_index("method")
    assert table.loc["lora", ["low", "high"]].isna().all() and table.loc["dora", "low"] > 0.8


def test_runs_of_two_studies_are_audited_together(whole: Report, tmp_path: Path) -> None:
    for method, seed in product(("lora", "dora"), range(3)):
        config = {"tracker": {"group": method}, "train": {"epochs": 3 if method == "lora" else 10}}
        store(tmp_path, method, seed, right(0.8, seed=seed), config=config)
        summary = {"study": method, "rows": [], "cells": []}
        (tmp_path / f"{method}-summary").mkdir(exist_ok=True)
        (tmp_path / f"{method}-summary/summary.json").write_text(json.dumps(summary))
    (one,) = audits(gather(tmp_path), report(tmp_path).found)
    assert any("epochs" in said for said in one.remarks)


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    for seed in range(2):
        store(tmp_path, HOSTILE, seed, right(0.8, seed=seed))
        store(tmp_path, "lora", seed, right(0.7, seed=seed))
    text = report(tmp_path).html()
    found = Page(text)
    assert "img" not in found.tags and text.count("<script") == text.count("</script>") == 2
    assert HOSTILE in found.column("scores", "method")
    assert HOSTILE in chart_data(text)["methods"]
    for path in export.write(report(tmp_path).found, tmp_path / "tables", "95 %"):
        if path.suffix == ".tex":
            assert r"\_\%\$\#\{\}|\textbackslash{}" in path.read_text()


def test_published_numbers_stay_closed_where_none_is_judged(whole: Report, html: str) -> None:
    assert set(whole.ledger["verdict"]) == {OPEN} and Page(html).tables["ledger"][1:]
    assert "<details>\n    <summary>" in html and "<details open>" not in html


# The command and its files


def call(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr("sys.argv", ["report", *map(str, arguments)])
    command.main()


def test_one_command_writes_page_and_tables(
    whole: Report, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(monkeypatch, folder, "--out", tmp_path / "page.html", "--tables", tmp_path / "tables")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        "scores.csv", "scores.md", "scores.tex",
    ]  # fmt: skip
    written = pd.read_csv(tmp_path / "tables/scores.csv")
    assert written["method"].tolist() == [
        m for one in report(folder).found for m in one.methods["method"]
    ]


def test_a_folder_without_runs_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="There is no finished run below"):
        call(monkeypatch, tmp_path)


def test_tables_hold_all_digits_in_csv_and_what_is_read_elsewhere(whole: Report) -> None:
    table = export.long(whole.found)
    assert table["mean"].tolist() == [m for one in whole.found for m in one.methods["mean"]]
    one = whole.found[0]
    best = one.methods.iloc[0]
    shown = f"{100 * best['mean']:.1f} [{100 * best['low']:.1f}, {100 * best['high']:.1f}]"
    assert f"{shown} {best['letters']} |" in export.markdown(whole.found)
    head, _, *rows = export.markdown(whole.found).splitlines()
    assert head.startswith("| method | local/cola (accuracy) |")
    assert rows[-1].startswith("| majority baseline | 50.0 |")
    assert table["baseline"].tolist() == [0.5] * len(table) and table["effective_lr"].min() == 1e-4
    tex = export.latex(whole.found)
    assert rf"{shown}\textsuperscript{{{best['letters']}}}" in tex
    assert r"\toprule" in tex and r"\bottomrule" in tex


def test_a_real_run_is_reported(tiny_run: Callable[..., Run], tmp_path: Path) -> None:
    result = execute(tiny_run("lora", "train.epochs=1"), tmp_path / "run")
    found = report(tmp_path)
    (one,) = found.found
    assert one.methods["mean"].item() == pytest.approx(result.primary["score"])
    assert found.material.runs["train_processor_seconds"].item() > 0
    assert Page(found.html()).column("costs", "method") == ["lora"]


def test_a_real_run_that_wrote_texts_is_reported(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    quick = ("task.metrics=[BLEU]", "train.epochs=1", "task.decoding.max_tokens=4")
    result = execute(tiny_run("lora", "task=e2e", *quick, family="gpt2"), tmp_path / "run")
    found = report(tmp_path)
    (one,) = found.found
    assert one.metric == "BLEU" and one.floor is None
    # One answer to all says nothing of texts: beside their scores stands the lowest there is.
    assert one.baseline == 0.0 and "lowest score, 0.0" in found.html()
    assert one.methods["mean"].item() == pytest.approx(result.primary["score"])


def test_runs_that_do_not_fit_each_other_stop_no_other_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        store(tmp_path, "lora", seed, right(0.8, seed=seed))
        store(tmp_path, "dora", seed, right(0.7, seed=seed))
    store(tmp_path, "lora", 0, right(0.8), task="local/rte")
    store(tmp_path, "dora", 0, right(0.8, examples=200), task="local/rte")
    material = gather(tmp_path)
    (one,) = comparisons(material, QUICK)
    assert one.task == "local/sst2" and len(material.left_out) == 1
    said = capsys.readouterr().err
    assert "rte" in said and "was not scored on the examples of" in said
    for folder in tmp_path.rglob("sst2"):
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match="was not scored on the examples of"):
        comparisons(gather(tmp_path), QUICK)


def test_a_study_names_a_method_in_its_runs_and_tags_are_a_users_own() -> None:
    mine = {"tracker": {"group": "mine", "tags": ["draft", "for paper", "not a method"]}}
    part = {"part_of": ["first", "lora_narrow", "test", "variant.lr=0.001"]}
    label = {"variant": "lora"}
    runs = [{"config": mine | changes, "label": label} for changes in ({"part_of": None}, part, {})]
    assert [material.name(run) for run in runs] == ["lora", "lora_narrow", "not a method"]
    assert [material.study_of(run) for run in runs] == [None, "first", "mine"]
