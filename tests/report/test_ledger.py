"""Published numbers as they were printed, and what may be said of ours beside them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from omegaconf import OmegaConf
from rich.console import Console
from scipy import stats

from analysis.ledger import compare, shown
from analysis.load import load
from analysis.papers import PUBLISHED, published
from experiments.running.runner import execute
from experiments.settings.config import Run

pytestmark = pytest.mark.thorough

PRINTED = published()
FILES = sorted(path.stem for path in PUBLISHED.glob("*.yaml"))


def ours(group: str) -> set[str]:
    """The names in a group of conf/."""
    return {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}


def cells(paper: str, table: str, label: str, **more: Any) -> pd.DataFrame:
    """The numbers of one row of a table."""
    wanted = {"paper": paper, "table": table, "label": label, **more}
    rows = np.all([PRINTED[key] == value for key, value in wanted.items()], axis=0)
    return PRINTED[rows].set_index("column")


# The numbers


@pytest.mark.parametrize("paper", FILES)
def test_every_name_is_one_of_ours_or_declared_not_to_be(paper: str):
    given = yaml.safe_load((PUBLISHED / f"{paper}.yaml").read_text())
    here = PRINTED[PRINTED["paper"] == paper]
    named = {key: set(here[key]) for key in ("variant", "model", "task")}
    strange = {name for key, names in named.items() for name in names - ours(key)}
    assert strange == set(given.get("not_ours", []))


def test_what_is_of_ours_is_measured_by_a_metric_and_on_a_split_of_ours():
    for cell in PRINTED[PRINTED["not_ours"].map(len) == 0].to_dict("records"):
        node = OmegaConf.load(ROOT / "conf/task" / f"{cell['task']}.yaml")
        task = node.get("task", node)
        if "defaults" in node:  # e2e_formatted is e2e on other files
            task = OmegaConf.load(ROOT / "conf/task/e2e.yaml").task
        of_two = cell["metric"].startswith("mean of ")  # printed as one number
        assert of_two or cell["metric"] in task.metrics
        assert cell["split"] in ("", *task.score_on)


def test_the_settings_that_stand_for_a_number_are_those_of_presets():
    presets = [OmegaConf.load(path) for path in (ROOT / "conf/experiment").glob("*.yaml")]
    named = {name for names in PRINTED["settings"] for name in names}
    assert named and named <= {preset.paper for preset in presets}


def test_no_number_stands_twice():
    place = ["paper", "table", "label", "model", "column"]
    assert not PRINTED.duplicated(place).any()


@pytest.mark.parametrize(
    ("label", "model", "average"),
    [
        ("FT", "roberta_base", 86.4),
        ("AdapterDrop, 0.3M", "roberta_base", 84.4),
        ("AdapterDrop, 0.9M", "roberta_base", 85.4),
        ("LoRA", "roberta_base", 87.2),
        ("FT", "roberta_large", 88.9),
        ("LoRA", "roberta_large", 89.0),
        ("LoRA †", "roberta_large", 88.6),
        ("Adapter-P †", "roberta_large", 88.4),
        ("Adapter-H †", "roberta_large", 86.4),
    ],
)
def test_the_rows_of_a_table_have_the_average_it_prints(label: str, model: str, average: float):
    row = cells("lora", "Table 2", label, model=model)
    assert len(row) == 8
    assert 100 * row["score"].mean() == pytest.approx(average, abs=0.0501)


@pytest.mark.parametrize(("label", "average"), [("LoRA", 74.7), ("DoRA", 78.4)])
def test_the_tasks_of_a_row_have_the_average_of_another_table(label: str, average: float):
    row = cells("dora", "Table 1, by task", label)
    whole = cells("dora", "Table 1", label, model="llama_7b")
    assert 100 * whole["score"].item() == pytest.approx(average)
    assert 100 * row["score"].mean() == pytest.approx(average, abs=0.0501)


def test_numbers_are_on_our_scale_and_as_printed():
    lora = cells("lora", "Table 2", "LoRA", model="roberta_base")
    assert lora.loc["sst2", "score"] == pytest.approx(0.951)
    assert lora.loc["cola", "spread"] == pytest.approx(0.012)
    assert (lora["metric"]["cola"], lora["metric"]["stsb"]) == ("matthews", "pearson")
    assert (lora["trained"].unique(), lora["seeds"].unique()) == ([300_000], [5])
    e2e = cells("lora", "Table 3", "LoRA", model="gpt2_medium")
    assert e2e["score"].to_dict() == pytest.approx(
        {"BLEU": 0.704, "NIST": 8.85, "METEOR": 0.468, "ROUGE_L": 0.718, "CIDEr": 2.53}
    )
    by_rank = cells("lora", "Table 18", "rank 4")
    assert by_rank["score"].to_dict() == pytest.approx(
        {"BLEU": 0.7038, "NIST": 8.8439, "METEOR": 0.4689, "ROUGE_L": 0.7186, "CIDEr": 2.5349}
    )
    for paper, table, label, column, score in [
        ("adalora", "Table 1", "AdaLoRA, 0.32M", "rte", 0.8736),
        ("qa_lora", "Table 1", "QA-LoRA, 3 bit", "FLAN v2", 0.447),
        ("qlora", "Table 3", "QLoRA FP4", "GLUE", 0.886),
    ]:
        assert cells(paper, table, label).loc[column, "score"] == pytest.approx(score)


def test_what_was_left_out_is_no_number():
    assert set(cells("lora", "Table 2", "BitFit").index) == {
        "mnli", "sst2", "cola", "qnli", "rte", "stsb"
    }  # fmt: skip
    assert PRINTED["score"].notna().all()
    assert math.isnan(cells("adalora", "Table 1", "AdaLoRA, 1.27M").loc["sst2", "spread"])


# Files that are not as they should be

GOOD = """
title: A paper
authors: Somebody
year: 2020
arxiv: "2001.00001"
tables:
  - name: Table 1
    data: GLUE
    columns:
      sst2: {task: sst2, metric: accuracy, unit: percent}
    rows:
      - {label: LoRA, variant: lora, model: roberta_base, scores: [95.1 ± 0.2]}
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("variant:", "varient:", r"tables\[0\].rows\[0\] has an unknown key 'varient'. Did you me"),
        ("metric: accuracy, ", "", r"tables\[0\].columns.sst2 has no 'metric'."),
        ("[95.1 ± 0.2]", "[95.1, 3]", r"rows\[0\].scores has 2 values for 1 columns."),
        ("95.1 ± 0.2", "ninety", r"rows\[0\].scores \(sst2\): expected a number, or a number ± a"),
        ("95.1 ± 0.2", "951", r"rows\[0\].scores \(sst2\): 951 is more than 100 percent."),
        ("percent", "per mille", r"scores \(sst2\): unit must be percent or one, got 'per mille'."),
        (
            "data: GLUE",
            "data: GLUE\n    selection: best",
            r"tables\[0\].selection must be best epoch or last step",
        ),
        ('"2001.00001"', "2001.00001", r"bad.yaml.arxiv must be of type str, got 2001.00001."),
        ("    data: GLUE\n", "", r"tables\[0\] has no 'data'."),
        ("rows:", "rows: [", r"bad.yaml is not YAML"),
        (GOOD, "- a list", r"bad.yaml must be keys and values, got \['a list'\]."),
    ],
)
def test_a_malformed_file_names_itself_and_the_key(old: str, new: str, said: str, tmp_path: Path):
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD)
    assert published(tmp_path)["spread"].item() == pytest.approx(0.002)
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ValueError, match=said) as error:
        published(tmp_path)
    assert str(path) in str(error.value)


def test_a_folder_without_files_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="There are no published numbers in"):
        published(tmp_path)


# Verdicts

SST2 = cells("lora", "Table 2", "LoRA", model="roberta_base").loc[["sst2"]].reset_index()  # 95.1
MEAN = SST2.assign(statistic="mean")


def run_rows(*scores: float, **changes: Any) -> pd.DataFrame:
    """Runs of the paper's own setting with these scores, one a seed, or with something else."""
    same = {
        "task": "hub/sst2", "model": "roberta_base", "variant": "lora", "status": "complete",
        "metric": "accuracy", "paper": "lora_table9", "protocol": "paper",
    } | changes  # fmt: skip
    return pd.DataFrame(
        [
            {**same, "seed": seed, "score": score, "scores": {"dev": {same["metric"]: score}}}
            for seed, score in enumerate(scores)
        ]
    )


def only(runs: pd.DataFrame, cell: pd.DataFrame = SST2) -> dict[str, Any]:
    (row,) = compare(cell, runs).to_dict("records")
    return row


def test_our_mean_near_the_printed_number_reproduces_it():
    row = only(run_rows(0.948, 0.950, 0.952))
    assert row["verdict"] == "reproduced"
    assert (row["ours"], row["difference"]) == pytest.approx((0.950, -0.001))
    assert (row["our_spread"], row["our_seeds"]) == (pytest.approx(0.002), 3)


def test_the_interval_counts_our_runs_and_theirs():
    # sd 0.002 over our 3 seeds and over their 5: 4.3027 * 0.002 * sqrt(1/3 + 1/5) = 0.0062844.
    steps = np.array([-0.002, 0.0, 0.002])
    near, far = 0.951 - 0.006284, 0.951 - 0.006285
    assert only(run_rows(*(near + steps)), MEAN)["verdict"] == "reproduced"
    row = only(run_rows(*(far + steps)), MEAN)
    assert row["verdict"] == "not reproduced"
    assert row["reason"] == "0.951 lies outside [0.9384, 0.951]."
    assert only(run_rows(*(1.902 - far + steps)), MEAN)["verdict"] == "not reproduced"  # above
    without = MEAN.assign(spread=math.nan)
    assert only(run_rows(*(near + steps)), without)["verdict"] == "reproduced"
    assert only(run_rows(*(far + steps)), without)["verdict"] == "not reproduced"
    # One run where nothing is said: 4.3027 * 0.002 * sqrt(1/3 + 1) = 0.009937.
    single = without.assign(seeds=pd.array([None], dtype="Int64"))
    assert only(run_rows(*(0.951 - 0.00993 + steps)), single)["verdict"] == "reproduced"
    assert only(run_rows(*(0.951 - 0.00994 + steps)), single)["verdict"] == "not reproduced"


@pytest.mark.parametrize("seeds", [3, 5, 20])
def test_a_paper_of_a_single_run_is_seldom_called_not_reproduced(seeds: int):
    g = np.random.default_rng(seeds)
    single = MEAN.assign(spread=math.nan, seeds=pd.array([None], dtype="Int64"))
    found = []
    for _ in range(400):
        cell = single.assign(score=g.normal(0.95, 0.01))
        found.append(only(run_rows(*g.normal(0.95, 0.01, seeds)), cell)["verdict"])
    assert np.mean([verdict == "not reproduced" for verdict in found]) <= 0.05 + 0.022


def test_two_seeds_are_too_few_and_are_shown():
    row = only(run_rows(0.95, 0.96))
    assert row["verdict"] == "cannot be judged"
    assert row["reason"] == "Too few seeds: 2, and a verdict takes 3."
    assert (row["ours"], row["our_seeds"]) == (pytest.approx(0.955), 2)


def test_two_runs_of_one_seed_are_one():
    twice = pd.concat([run_rows(0.95, 0.96), run_rows(0.97)], ignore_index=True)
    row = only(twice)
    assert (row["our_seeds"], row["verdict"]) == (2, "cannot be judged")
    assert row["ours"] == pytest.approx(0.96)


def test_scores_that_lie_far_apart_reproduce_nothing():
    row = only(run_rows(0.50, 0.95, 0.99))
    assert row["verdict"] == "cannot be judged"
    assert row["reason"] == "Ours is known to ±0.85 only: more than 2% of the number."
    assert only(run_rows(0.50, 0.51, 0.52))["verdict"] == "not reproduced"


def test_a_published_median_stands_beside_our_median():
    assert SST2["statistic"].item() == "median"
    row = only(run_rows(0.950, 0.951, 0.959))
    assert (row["ours"], row["verdict"]) == (pytest.approx(0.951), "reproduced")
    spread = np.std([0.950, 0.951, 0.959], ddof=1)
    assert spread > SST2["spread"].item() and SST2["seeds"].item() == 5
    half = stats.t.isf(0.025, 2) * spread * math.sqrt(1 / 3 + 1 / 5) * math.sqrt(math.pi / 2)
    assert row["reason"] == f"0.951 lies within [{0.951 - half:.4g}, {0.951 + half:.4g}]."


def test_runs_that_diverged_are_counted_beside_the_others():
    lost = run_rows(0.9, 0.9, status="diverged", metric=None)
    row = only(pd.concat([run_rows(0.948, 0.950, 0.952), lost], ignore_index=True))
    assert row["verdict"] == "reproduced" and row["our_seeds"] == 3
    assert row["reason"].endswith("]. Beside them 2 runs diverged.")


REASONS = {
    "never run": ({"variant": "dora"}, "There is no run of lora on sst2."),
    "another task": ({"task": "hub/rte"}, "There is no run of lora on sst2."),
    "built-in data": ({"task": "mini/sst2"}, "All runs of lora on sst2 are on built-in data."),
    "another model": ({"model": "minilm"}, "Another model: minilm."),
    "diverged": ({"status": "diverged"}, "No run of it came to its end."),
    "another setting": ({"paper": None}, "The setting differs from the paper's."),
    "another's setting": ({"paper": "lora_code"}, "The setting differs from the paper's."),
    "last step": ({"protocol": "clean"}, "The paper scores the best epoch of a run; these do not."),
    "another metric": ({"metric": "f1"}, "These runs have no such accuracy."),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_is_not_the_papers_own_cannot_be_judged(case: str):
    changes, reason = REASONS[case]
    row = only(run_rows(0.948, 0.950, 0.952, **changes))
    assert (row["verdict"], row["reason"]) == ("cannot be judged", reason)
    assert math.isnan(row["ours"]) and math.isnan(row["difference"]) and row["our_seeds"] == 0


def test_other_runs_beside_those_of_the_setting_change_nothing():
    alone = run_rows(0.948, 0.950, 0.952)
    others = [
        run_rows(0.1, 0.2, **changes)
        for changes, _ in REASONS.values()
        if changes.get("status") != "diverged"
    ]
    assert only(pd.concat([*others, alone], ignore_index=True)) == only(alone)


def test_a_copied_number_and_one_of_a_strange_model_cannot_be_judged():
    full = cells("lora", "Table 2", "FT", model="roberta_base").loc[["sst2"]].reset_index()
    row = only(run_rows(0.948, 0.950, 0.952, variant="full"), full)
    assert row["reason"] == "The paper copied the number from Liu et al. 2019."
    strange = cells("dora", "Table 1", "DoRA", model="llama_7b").reset_index()
    row = only(run_rows(0.961, 0.961, 0.962, variant="dora"), strange)
    assert row["reason"] == "There is no llama_7b here."


def test_other_metrics_than_the_first_are_found_on_a_single_split():
    nist = cells("lora", "Table 3", "LoRA", model="gpt2_medium").loc[["NIST"]].reset_index()
    runs = run_rows(
        0.70, 0.71, 0.72, task="local/e2e_formatted", model="gpt2_medium", metric="BLEU",
        paper="lora_table11",
    )  # fmt: skip
    runs["scores"] = [{"test": {"BLEU": 0.7, "NIST": value}} for value in (8.8, 8.9, 8.85)]
    row = only(runs, nist)
    assert (row["verdict"], row["ours"]) == ("reproduced", pytest.approx(8.85))


def test_a_number_of_one_split_is_compared_with_that_split():
    cell = SST2.assign(task="mnli", split="dev_matched")
    runs = run_rows(0.9, 0.9, 0.9, task="hub/mnli")
    runs["scores"] = [
        {"dev_matched": {"accuracy": score}, "dev_mismatched": {"accuracy": 0.5}}
        for score in (0.950, 0.951, 0.952)
    ]
    assert only(runs, cell)["ours"] == pytest.approx(0.951)


def test_the_ledger_of_real_runs_gives_every_number_a_reason(
    tiny_run: Callable[..., Run], tmp_path: Path
):
    execute(tiny_run("lora"), tmp_path / "run")
    runs = load(tmp_path)
    assert (runs["protocol"].item(), runs["paper"].isna().item()) == ("clean", True)
    assert runs["scores"].item()["dev"]["accuracy"] == runs["score"].item()
    ledger = compare(PRINTED, runs)
    assert len(ledger) == len(PRINTED)
    assert set(ledger["verdict"]) == {"cannot be judged"}
    assert ledger["reason"].str.endswith(".").all()
    told = ledger[(ledger["variant"] == "lora") & (ledger["task"] == "sst2")]
    assert "All runs of lora on sst2 are on built-in data." in set(told["reason"])
    console = Console(width=160, record=True)
    console.print(shown(ledger))
    assert "llama_7b" not in console.export_text()
