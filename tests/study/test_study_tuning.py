"""Tuning in a race, in each method's own space, and what becomes of a choice that is not clear."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from rich.console import Console
from small_studies import SMALL, Folders, folders, grid, local, rate, study

from analysis.report import sections
from analysis.report.choices import chosen_again
from analysis.report.material import gather
from analysis.report.page import Report
from experiments.results.result import read_result
from experiments.settings.compose import compose_config
from experiments.stored.summary import TUNING_SEED
from experiments.study import race, summary
from experiments.study.cells import Cell, Outcome
from experiments.study.conduct import conduct
from experiments.study.design import log_grid
from experiments.study.forecast import list_expected
from experiments.study.plan import Plan
from experiments.study.publish import publish
from experiments.study.summary import Summary

__all__ = ["folders"]  # a fixture
RACE = {"tuning": "race", "seeds": 4, "methods": {"lora": []}}


def test_the_best_two_and_their_error_by_hand() -> None:
    assert race.best_two([0.1, None, 0.3, 0.2, 0.3]) == [2, 4]
    assert race.best_two([None, 0.5]) == [1] and race.best_two([None]) == []
    # Differences 0, 0.2, 0.1 of one method and 0.1, 0.1, 0.1 of another.
    pairs = [([0.5, 0.7, 0.6], [0.5, 0.5, 0.5]), ([0.4, 0.5, 0.6], [0.3, 0.4, 0.5])]
    error = race.pool_error(pairs)
    assert error == pytest.approx((0.01 / 2 / 3) ** 0.5)
    assert race.are_close([0.50, 0.52], [0.49, 0.51], error)
    assert not race.are_close([0.60, 0.60], [0.5, 0.5], error)
    assert race.pool_error([]) is None and not race.are_close([0.5], [0.5], None)


def test_a_race_loses_the_best_point_more_seldom_than_single_trials() -> None:
    g, truth = np.random.default_rng(0), np.array([0.5, 0.79, 0.8, 0.79, 0.5])
    plain, raced = 0, 0
    for _ in range(400):
        trials = truth + g.normal(0, 0.01, (1 + race.MORE, 5))
        plain += int(trials[0].argmax() == 2)
        first, second = race.best_two(trials[0].tolist())
        both = sorted((trials[:, p].tolist() for p in (first, second)), key=fmean, reverse=True)
        error = race.pool_error([(both[0], both[1])])
        better = first if fmean(trials[:, first]) >= fmean(trials[:, second]) else second
        other = second if better == first else first
        kept = {better} | ({other} if race.are_close(both[0], both[1], error) else set())
        raced += int(2 in kept)
    assert raced > plain + 0.1 * 400, (plain, raced)


def trials_of(plan: Plan) -> list[Cell]:
    return [cell for cell in plan.refresh() if cell.stage == "select"]


def test_a_race_tries_every_point_once_and_the_best_two_again(folders: Folders) -> None:
    plan = Plan(study(**grid(5) | RACE), "s", [])
    first = trials_of(plan)
    assert plan.expected() == 5 + 2 * race.MORE + 4
    assert len(first) == 5 and {cell.seed for cell in first} == {TUNING_SEED}
    assert all("protocol.seed=1000" in cell.overrides for cell in first)
    best = log_grid(5e-4, 2.0, 5)[2:4]
    folders.score(first, lambda cell: 0.8 if rate(cell) in best else 0.5)
    again = [cell for cell in trials_of(plan) if cell not in first]
    assert sorted(rate(cell) for cell in again) == sorted(best * race.MORE)
    assert {cell.seed for cell in again} == {TUNING_SEED + 1, TUNING_SEED + 2}
    assert all(f"protocol.seed={cell.seed}" in cell.overrides for cell in again)
    assert not [cell for cell in plan.refresh() if cell.stage == "test"]
    # Much better in its further runs, so there is no doubt about the choice.
    folders.score(again, lambda cell: 0.9 if rate(cell) == best[1] else 0.6 + cell.seed / 1e6)
    finals = [cell for cell in plan.refresh() if cell.stage == "test"]
    assert len(finals) == 4 and {rate(cell) for cell in finals} == {best[1]}
    assert not any(o.startswith("protocol.seed") for cell in finals for o in cell.overrides)
    assert plan.expected() == 5 + 2 * race.MORE + 4


def test_two_points_that_are_as_good_are_both_run(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Summary, "seconds", lambda self, cell: 0.0)
    plan = Plan(study(**grid(5) | RACE), "s", [])
    best = log_grid(5e-4, 2.0, 5)[2:4]
    luck = {TUNING_SEED: 0.0, TUNING_SEED + 1: 0.02, TUNING_SEED + 2: -0.021}
    for _ in range(2):
        folders.score(
            trials_of(plan),
            lambda c: 0.5 if rate(c) not in best else 0.8 + luck[c.seed] * (rate(c) == best[0]),
        )
        plan.outcomes.clear()
    finals = [cell for cell in plan.refresh() if cell.stage == "test"]
    assert [rate(cell) for cell in finals] == [best[1]] * 4 + [best[0]] * 4
    assert plan.expected() == 5 + 2 * race.MORE + 8
    ((row,),) = Summary(plan).groups.values()
    assert row.chosen == [f"variant.lr={best[1]}"] and row.rival == [f"variant.lr={best[0]}"]
    assert [len(scores) for _, scores in row.tries] == [1, 1, 3, 3, 1]


def test_a_point_that_diverges_when_tried_again_is_not_chosen(folders: Folders) -> None:
    plan = Plan(study(**grid(3) | RACE), "s", [])
    folders.score(trials_of(plan), lambda cell: rate(cell))
    high = log_grid(5e-4, 2.0, 3)[2]
    more = [cell for cell in trials_of(plan) if cell not in folders]
    folders.score(more, lambda cell: None if rate(cell) == high else rate(cell))
    finals = {rate(cell) for cell in plan.refresh() if cell.stage == "test"}
    assert finals == {0.0005}


def test_a_method_may_have_axes_of_its_own_at_the_same_number_of_trials() -> None:
    own = {"lora_plus": {"variant.ratio": [4, 16]}}
    settings = study(
        methods={"lora": [], "lora_plus": []}, own_axes=own, search="sample", trials=9,
        axes={"variant.lr": {"decades": 2.0, "points": 5}},
    )  # fmt: skip
    cells = Plan(settings, "s", []).refresh()
    lora = [cell.point for cell in cells if cell.method == "lora"]
    plus = [cell.point for cell in cells if cell.method == "lora_plus"]
    assert len(lora) == len(plus) == len(set(plus)) == 9
    assert [float(point[0].partition("=")[2]) for point in lora] == log_grid(5e-4, 2.0, 9)
    config = compose_config("variant=lora_plus").variant
    assert plus[0] == (f"variant.lr={config.lr}", f"variant.ratio={config.ratio}")
    assert {point[1] for point in plus[1:]} == {"variant.ratio=4", "variant.ratio=16"}
    rates = [float(point[0].partition("=")[2]) / config.lr for point in plus]
    assert min(rates) < 0.3 and max(rates) > 3 and all(0.09 < rate < 11 for rate in rates)
    assert Plan(settings, "s", []).refresh() == cells


@pytest.mark.parametrize(
    "how",
    [
        {"tuning": "plain"},
        {"tuning": "race"},
        {"tuning": "halving"},
        {"tuning": "race", "search": "sample", "trials": 5},
        {"search": "optuna", "trials": 5},
    ],
)
def test_a_method_without_a_rate_is_tried_at_one_point(
    how: dict, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Summary, "results", lambda self, arm, trials: [])
    plan = Plan(study(methods={"head_only": [], "lora": []}, seeds=2, **how), "s", [])
    while left := [cell for cell in plan.refresh() if not plan.outcome(cell).settled]:
        for cell in left:
            if plan.outcome(cell).status == "waiting" and "record.pause=0.5" in cell.overrides:
                pause(folders, [cell], lambda _: 0.5)
            elif plan.outcome(cell).status != "halfway":
                folders.score([cell], lambda _: 0.5)
    ((head, lora),) = Summary(plan).groups.values()
    assert [point for point, _ in head.curve] == ["variant.lr=0.0"] and len(lora.curve) == 5
    finals = [
        cell for cell in plan.refresh() if cell.stage == "test" and cell.method == head.method
    ]
    assert len(finals) == 2 and "tried at 1 points (others 5)" in head.remarks


def test_a_grid_takes_the_axes_of_each_method() -> None:
    settings = study(
        **grid(3), methods={"lora": [], "vera": []}, own_axes={"vera": {"variant.rank": [4, 8]}}
    )
    cells = Plan(settings, "s", []).refresh()
    assert [sum(cell.method == name for cell in cells) for name in ("lora", "vera")] == [3, 6]


def pause(folders: Folders, cells: list[Cell], of: Callable[[Cell], float]) -> None:
    """Say that cells have paused with these scores."""
    for cell in cells:
        folders[cell] = Outcome("halfway", halfway=of(cell), seconds=2.0, saved=1.0)


def test_the_better_half_of_the_points_goes_on() -> None:
    assert race.choose_survivors([0.1, 0.5, 0.4, 0.3, 0.2]) == {1, 2, 3}
    assert race.choose_survivors([0.1, None, 0.4, None, 0.2]) == {0, 2, 4}
    assert race.choose_survivors([0.3, 0.3, 0.3, 0.3]) == {0, 1}
    assert race.choose_survivors([0.1, 0.2, 0.3]) == {1, 2}
    assert race.choose_survivors([0.1]) == {0} and race.choose_survivors([None]) == set()


def test_halving_stops_the_worse_points_and_runs_the_race_among_the_rest(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Summary, "results", lambda self, arm, trials: [])
    plan = Plan(study(**grid(5) | RACE | {"tuning": "halving"}), "s", [])
    first = trials_of(plan)
    assert all("record.pause=0.5" in cell.overrides for cell in first)
    pause(folders, first[:4], rate)
    assert {plan.outcome(cell).status for cell in trials_of(plan)} == {"halfway", "waiting"}
    pause(folders, first, rate)
    found = {rate(cell): plan.outcome(cell).status for cell in trials_of(plan)}
    assert list(found.values()) == ["stopped"] * 2 + ["interrupted"] * 3, found
    # One of those that went on comes to nothing, so the next best goes on as well.
    folders[first[4]] = Outcome("diverged", "no", halfway=rate(first[4]))
    found = [plan.outcome(cell).status for cell in trials_of(plan)]
    assert found == ["stopped", *["interrupted"] * 3, "diverged"]
    for cell in first[1:4]:
        folders[cell] = Outcome("complete", None, rate(cell), halfway=rate(cell))
    again = [cell for cell in trials_of(plan) if cell not in first]
    assert {rate(cell) for cell in again} == {rate(first[2]), rate(first[3])}
    assert not any(o.startswith("record.pause") for cell in again for o in cell.overrides)
    folders.score(again, rate)
    finals = [cell for cell in plan.refresh() if cell.stage == "test"]
    assert {rate(cell) for cell in finals} == {rate(first[3])}
    ((row,),) = Summary(plan).groups.values()
    assert row.stopped == [(" ".join(first[0].point), rate(first[0]))]
    assert row.saved_seconds == 1.0 and dict(row.curve)[" ".join(first[0].point)] is None


def test_points_that_had_no_record_to_pause_at_are_counted(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Summary, "results", lambda self, arm, trials: [])
    plan = Plan(study(**grid(3) | RACE | {"tuning": "halving"}), "s", [])
    folders.score(trials_of(plan), rate)
    (rows,) = Summary(plan).groups.values()
    assert summary.describe_halving(rows) == (
        "Halving: after 50% of their steps only the better half of every method's points "
        "continued; 0 of 3 points were stopped. 3 had no record there to pause at "
        "(record.log_every). That saved about 0 s; all trials took 0 s."
    )
    plain = Plan(study(**grid(3) | RACE), "s", [])
    folders.score(trials_of(plain), rate)
    ((row,),) = Summary(plain).groups.values()
    assert row.unpaused == 0  # nobody asked for a pause


def test_trials_that_ended_without_a_pause_stand_in_nobody_s_way(folders: Folders) -> None:
    plan = Plan(study(**grid(3) | RACE | {"tuning": "halving"}), "s", [])
    first = trials_of(plan)
    folders.score(first[:1], lambda cell: 0.9)
    pause(folders, first[1:], rate)
    assert [plan.outcome(cell).status for cell in trials_of(plan)] == [
        "complete", "interrupted", "interrupted"
    ]  # fmt: skip


@pytest.mark.slow
def test_halving_is_carried_out_and_goes_on_where_it_was_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = study(**grid(5) | RACE | {"tuning": "halving", "seeds": 2}, overrides=SMALL)
    plan = Plan(settings, "s", [])
    assert conduct(plan, local())
    said = capfd.readouterr().out
    assert "Halving: after 50% of their steps only the better half of every method's" in said
    assert "2 of 5 points were stopped" in said
    content = json.loads(Path("outputs/studies/s/summary.json").read_text())
    assert len(content["rows"][0]["stopped"]) == 2 and content["rows"][0]["saved_seconds"] > 0
    stopped = [Path(cell["folder"]) for cell in content["cells"] if cell["status"] == "stopped"]
    assert len(stopped) == 2
    for folder in stopped:
        assert (folder / "halfway.json").exists() and not (folder / "UNFINISHED").exists()
        assert not list(folder.glob("*.safetensors"))
    place, _ = publish(plan)
    shutil.rmtree("outputs")
    shutil.copytree(place, "outputs")
    again = Plan(settings, "s", [])
    assert all(again.outcome(cell).settled for cell in again.refresh())
    assert [again.outcome(cell).status for cell in again.refresh()].count("stopped") == 2
    report = Report(gather("outputs/studies/s"))
    assert len(report.answers) == 1
    assert "5, 2 half-way" in report.html("outputs")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning": "racing"}, r"study\.tuning must be one of plain, race, halving, got 'racing'"),
        ({"tuning": "halving", "tuning_seeds": 2}, r"study\.tuning=halving decides itself how"),
        ({"tuning": "halving", "search": "optuna"}, r"study\.tuning=halving compares points that"),
        ({"tuning": "halving", "max_grid_extensions": 1}, r"study\.tuning=halving compares points"),
        ({"tuning": "race", "tuning_seeds": 2}, r"study\.tuning=race decides itself how often"),
        ({"search": "sample"}, r"study\.search=sample needs study\.trials, the same for every"),
        ({"trials": 9}, r"study\.search=grid tries every point; study\.trials is for sample"),
        ({"trial_overrides": ["variant=dora"]}, r"A study chooses variant itself"),
        ({"trial_overrides": ["seed=3"]}, r"A study chooses seed itself, so 'seed=3' has no place"),
        ({"trial_overrides": ["protocol.stage=test"]}, r"A study chooses protocol\.stage itself"),
        ({"overrides": ["protocol.stage=test"]}, r"A study chooses protocol\.stage itself"),
        ({"trial_overrides": ["variant.lr=1"]}, r"trial_overrides sets variant\.lr, which trials"),
        ({"trial_overrides": ["train=nlg"]}, r"sets single settings, as train\.epochs=1, got 'tra"),
        ({"trial_overrides": ["+train.epochs=1"]}, r"sets single settings, .* got '\+train\.epoch"),
        ({"own_axes": {"dora": {}}}, r"study\.own_axes must name one of lora, vera, got 'dora'"),
        ({"own_axes": {"vera": {"variant.rank": {}}}}, r"study\.axes\.variant\.rank must be"),
    ],
)
def test_a_race_that_makes_no_sense_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(**changes)


def test_trials_alone_have_their_own_overrides(folders: Folders) -> None:
    plan = Plan(study(**grid(2), trial_overrides=["train.epochs=1"], seeds=2), "s", [])
    folders.score(plan.refresh(), rate)
    cells = plan.refresh()
    epochs = {
        (cell.stage, cell.config["train"]["epochs"], "train.epochs=1" in cell.overrides)
        for cell in cells
    }
    assert epochs == {("select", 1, True), ("test", 2, False)}
    assert {cell.overrides.count("train.epochs=2") for cell in cells} == {1}


def test_overrides_of_trials_do_not_change_what_a_race_draws(folders: Folders) -> None:
    plan = Plan(study(**grid(2) | RACE, trial_overrides=["protocol.seed=7"]), "s", [])
    assert {cell.config["protocol"]["seed"] for cell in plan.refresh()} == {TUNING_SEED}
    assert {cell.config["protocol"]["stage"] for cell in plan.refresh()} == {"select"}


def test_an_override_of_trials_that_is_no_setting_is_refused() -> None:
    plan = Plan(study(trial_overrides=["train.epoch=1"]), "s", [])
    with pytest.raises(ValueError, match=r"study\.trial_overrides: there is no setting 'train\.ep"):
        plan.refresh()


@pytest.mark.slow
def test_trials_of_a_language_model_are_scored_without_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = [*SMALL, "data.test=16", "task.decoding.max_tokens=4", "task.metrics=[BLEU]"]
    settings = study(
        **grid(3), **RACE | {"seeds": 3}, tasks={"e2e": []}, overrides=overrides,
        trial_overrides=["task.metrics=[token_probability]"],
    )  # fmt: skip
    plan = Plan(settings, "s", [])
    assert conduct(plan, local())
    (rows,) = Summary(plan).groups.values()
    (row,) = rows
    assert (row.metric, row.tuned_by) == ("BLEU", "token_probability")
    assert row.tuned is not None and 0 < row.tuned < 1
    material = gather("outputs/studies/s")
    (choice,) = chosen_again(material)
    assert choice.exact and choice.repeated is not None
    assert "selection metric token_probability" in sections.tuned(material).told
    assert "token_probability" in Report(material).html("outputs")


def test_a_race_is_forecast_with_its_further_trials() -> None:
    plain, racing = (
        Plan(study(**grid(5) | RACE | {"tuning": t}), "s", []) for t in ("plain", "race")
    )
    assert [runs for _, *runs in list_expected(plain)] == [[5, 4]]
    assert [runs for _, *runs in list_expected(racing)] == [[5 + 4, 4]]


@pytest.mark.slow
def test_a_race_is_carried_out_and_published_with_its_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan(study(**grid(3) | RACE | {"seeds": 2}, overrides=SMALL), "s", [])
    assert conduct(plan, local())
    content = json.loads(Path("outputs/studies/s/summary.json").read_text())
    assert content["tuning"] == "race"
    select = [cell for cell in content["cells"] if cell["stage"] == "select"]
    assert len(select) == 3 + 2 * race.MORE
    seeds = {
        (result.seed, result.config["protocol"]["seed"])
        for result in (read_result(Path(cell["folder"])) for cell in select)
    }
    assert seeds == {(TUNING_SEED + n, TUNING_SEED + n) for n in range(1 + race.MORE)}
    place, _ = publish(plan)
    kept = [path.parent.name for path in place.rglob("predictions.parquet")]
    assert len(kept) == len(content["cells"]) and not list(place.rglob("*.safetensors"))


def test_many_points_of_a_method_are_readable_in_a_narrow_window() -> None:
    points = [(f"variant.lr={2.32 * 10**-i:.3g}", 0.5 + i / 100) for i in range(12)]
    row = summary.Row("clean", "sst2", "lora_plus", curve=points, edge="at the low edge")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary.curves([row], console.width))
    said = console.export_text()
    assert "…" not in said and said.count("lr=") == 12 and said.count("lora_plus") == 1
    assert said.index("at the low") > said.index("lr=2.32e-11")


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_score_is_cut_off_beside_long_settings_and_edges(width: int) -> None:
    rows = []
    for name in ("lora_plus", "head_only"):
        points = [
            (f"variant.lr={3.31 * 10**-i:.3g} train.head_lr=5.34e-05", 0.5 + i / 1000)
            for i in range(9)
        ]
        rows.append(summary.Row("clean", "sst2", name, curve=points, edge="at the high edge"))
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary.curves(rows, console.width))
    said = console.export_text()
    for _, score in rows[0].curve:
        assert said.count(f"{score:.4f}") == 2, said
    assert said.count("edge") == 2
