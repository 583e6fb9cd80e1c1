"""What a run may look at under each protocol."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import assert_equal_runs, killed_after
from safetensors.torch import load_file

from experiments.data.sources import Source
from experiments.data.splits import Split
from experiments.data.tables import Part
from experiments.mini.source import Mini
from experiments.results.result import Diverged, Result, read_result
from experiments.running import evaluation
from experiments.running.epochs import Epochs
from experiments.running.job import prepare_run
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read
from experiments.settings.protocol import Clean, carve, train_only
from experiments.training.measure import Cost

ROOT = Path(__file__).parents[2]
TASKS = sorted(path.stem for path in (ROOT / "conf/task").glob("*.yaml"))
SELECT = "protocol.stage=select"


def split_of(labels: list[float], texts: list[str] | None = None) -> Split:
    texts = texts or [f"text {row}" for row in range(len(labels))]
    rows = [(text,) for text in texts]
    return Split(np.arange(len(rows)), rows, np.array(labels), "made by hand", "")


def test_every_class_gives_its_share_and_no_row_is_on_both_sides() -> None:
    train = split_of([0] * 60 + [1] * 40)
    kept, chosen = carve(train, train.labels, share=0.2, most=1000, seed=0)
    assert np.bincount(train.labels[chosen]).tolist() == [12, 8]
    assert np.array_equal(np.sort(np.concatenate([kept, chosen])), np.arange(100))
    again = carve(train, train.labels, share=0.2, most=1000, seed=0)[1]
    other = carve(train, train.labels, share=0.2, most=1000, seed=1)[1]
    assert np.array_equal(chosen, again)
    assert not np.array_equal(chosen, other)


def test_the_selection_split_is_bounded() -> None:
    train = split_of([0] * 500 + [1] * 500)
    chosen = carve(train, train.labels, share=0.5, most=20, seed=0)[1]
    assert np.bincount(train.labels[chosen]).tolist() == [10, 10]


def test_rows_with_one_text_stay_on_one_side() -> None:
    texts = [f"text {row // 4}" for row in range(200)]
    train = split_of([0, 1] * 100, texts)
    kept, chosen = carve(train, train.labels, share=0.3, most=1000, seed=0)
    assert not {texts[row] for row in kept} & {texts[row] for row in chosen}
    assert len(chosen) == 60


def test_a_split_too_small_to_divide_is_an_error() -> None:
    train = split_of([0, 1])
    with pytest.raises(ValueError, match=r"share=0\.1 of 2 rows leaves nothing on one side\."):
        carve(train, train.labels, share=0.1, most=1000, seed=0)


def run_on(task: str, *overrides: str) -> Run:
    """A run on a small copy of the built-in suite."""
    sizes = ("data.train=200", "data.dev=20", "data.test=20")
    known = "tracker.mode=disabled", "compute.device=cpu"
    return read(compose_config(f"task={task}", *sizes, *known, *overrides))


NOT_BUILT_IN = (
    "own", "webnlg", "dart", "e2e_formatted", "gsm8k", "commonsense", "instruct", "summary",
    "sst2_words",
)  # fmt: skip


@pytest.mark.parametrize("task", [name for name in TASKS if name not in NOT_BUILT_IN])
def test_selection_reads_no_split_but_train(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, opened = run_on(task, SELECT), []
    original = Mini.table

    def watched(self: Mini, part: Part):
        opened.append(part.split)
        return original(self, part)

    monkeypatch.setattr(Mini, "table", watched)
    data = run.protocol.load(run.task, run.data)
    assert set(opened) <= {"train"}
    assert set(data.score) == {"selection"}
    assert not data.predict
    assert len(data.train) + len(data.score["selection"]) <= 200
    train = {texts[0] for texts in data.train.texts}
    assert not train & {texts[0] for texts in data.score["selection"].texts}


def test_selection_cannot_read_another_split_whatever_a_task_asks_for() -> None:
    run = run_on("sst2")
    with pytest.raises(ValueError, match=r"Split 'dev' is not read before settings are chosen\."):
        run.task.load(train_only(run.data))


def test_selection_works_where_the_scored_files_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "SST-2").mkdir()
    rows = "".join(f"word number {i}\t{i % 2}\n" for i in range(100))
    (tmp_path / "SST-2" / "train.tsv").write_text("sentence\tlabel\n" + rows)
    local = compose_config("data=local", f"data.dir={tmp_path}", "task=sst2", SELECT)
    run = read(local)
    assert len(run.protocol.load(run.task, run.data).score["selection"]) == 10
    tested = read(compose_config("data=local", f"data.dir={tmp_path}", "task=sst2"))
    with pytest.raises(ValueError, match=r"dev\.tsv"):
        tested.protocol.load(tested.task, tested.data)


def test_a_run_that_selects_is_another_cell_and_says_so(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    result = execute(tiny_run("lora", SELECT, "train.epochs=1"), tmp_path)
    assert list(result.scores) == ["selection"]
    assert result.fingerprint["data"].keys() == {"train", "selection"}
    names = {
        compose_config(*overrides).hydra.run.dir
        for overrides in ([], [SELECT], ["protocol=paper"], ["protocol.seed=1"])
    }
    assert len(names) == 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"stage": "dev"}, r"protocol\.stage must be select or test, got 'dev'\."),
        ({"share": 1.0}, r"protocol\.share must lie between 0 and 1, got 1\.0\."),
        ({"most": 0}, r"protocol\.most must be at least 1, got 0\."),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict, message: str) -> None:
    known = {"stage": "test", "share": 0.1, "most": 1000, "seed": 0}
    with pytest.raises(ValueError, match=message):
        Clean(**known | setting)


PAPER = ("protocol=paper", "train.epochs=4", "record.checkpoint_every=0", "record.log_every=1")


@pytest.mark.parametrize("variant", ["lora", "full", "lora_drop", "vera"])
def test_the_best_epoch_is_what_the_paper_protocol_scores_and_keeps(
    tiny_run: Callable[..., Run], tmp_path: Path, variant: str
) -> None:
    run = tiny_run(variant, *PAPER)
    result = execute(run, tmp_path / "whole")
    scores = [entry["score"] for entry in result.epochs]
    assert len(scores) == 4
    assert result.primary["score"] == max(scores)
    assert [entry["step"] for entry in result.epochs] == [2, 4, 6, 8]
    kept = result.predictions
    assert np.mean(kept["prediction"] == kept["label"]) == pytest.approx(max(scores))
    assert not list((tmp_path / "whole").glob("best-*"))


@pytest.mark.parametrize("variant", ["lora", "adalora", "full", "delta_lora"])
def test_what_is_kept_is_the_state_after_the_best_epoch(
    tiny_run: Callable[..., Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
) -> None:
    told = iter([0.1, 0.9, 0.9, 0.2])
    monkeypatch.setattr(evaluation, "join_splits", lambda task, evaluated: next(told))
    # AdaLoRA's pattern is fixed before the second epoch ends, Delta-LoRA's W0 moves after it.
    own = {"adalora": ["variant.final=0.6"], "delta_lora": ["variant.start=0.5"]}
    execute(tiny_run(variant, *PAPER, "record.snapshots=4", *own.get(variant, [])), tmp_path)
    kept = load_file(tmp_path / "adapter.safetensors")
    second, last = (
        load_file(tmp_path / "snapshots" / f"step-{step:07d}.safetensors") for step in (4, 8)
    )
    assert kept.keys() == second.keys()
    assert all(torch.equal(kept[name], second[name]) for name in second)
    assert not all(torch.equal(last[name], second[name]) for name in second)


def test_an_epoch_before_the_structure_is_final_is_not_kept(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([0.9, 0.8, 0.3, 0.2])
    monkeypatch.setattr(evaluation, "join_splits", lambda task, evaluated: next(told))
    short = ("variant.final=0.4", "variant.interval=1", "record.snapshots=4")
    result = execute(tiny_run("adalora", *PAPER, *short), tmp_path)
    assert [entry["settled"] for entry in result.epochs] == [False, False, True, True]
    kept = load_file(tmp_path / "adapter.safetensors")
    third = load_file(tmp_path / "snapshots" / "step-0000006.safetensors")
    assert all(torch.equal(kept[name], third[name]) for name in third)
    left = sum(int((tensor != 0).sum()) for name, tensor in kept.items() if name.endswith(".E"))
    assert left == result.telemetry["rank"] == 4 * read_target(result)


def test_a_model_that_breaks_before_an_epoch_ends_has_diverged(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "not_finite", lambda items: "All outputs are no numbers.")
    run = tiny_run("lora", "protocol=paper", "train.epochs=2", "record.log_every=100")
    with pytest.raises(Diverged, match=r"^All outputs are no numbers\."):
        execute(run, tmp_path)
    assert read_result(tmp_path).failure == "All outputs are no numbers."


def test_what_the_epochs_scores_take_is_a_cost(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each of the four epochs' scores takes so many seconds.
    @contextmanager
    def add_time(cost: Cost) -> Iterator[None]:
        yield
        cost.seconds += 1000
        cost.processor_seconds += 500

    monkeypatch.setattr("experiments.running.epochs.add_time", add_time)
    cost = execute(tiny_run("lora", "protocol=paper", "train.epochs=4"), tmp_path).cost
    assert round(cost["seconds"]["evaluate"], -3) == 4000
    assert round(cost["processor_seconds"]["evaluate"], -3) == 2000


def test_a_best_epoch_of_a_lost_continuation_is_not_taken(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([0.5, 0.9])
    monkeypatch.setattr(evaluation, "join_splits", lambda task, evaluated: next(told))
    run = tiny_run("lora", *PAPER, "record.snapshots=4")
    # The second epoch is scored, and its checkpoint is not there any more.
    with killed_after(monkeypatch, 3):
        execute(run, tmp_path)
    write_best = Epochs.score
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:

        def killed(self: Epochs, step: int) -> str | None:
            write_best(self, step)
            raise KeyboardInterrupt

        patch.setattr(Epochs, "score", killed)
        execute(run, tmp_path)
    told = iter([0.4, 0.3, 0.2])
    execute(run, tmp_path)
    kept = load_file(tmp_path / "adapter.safetensors")
    first = load_file(tmp_path / "snapshots" / "step-0000002.safetensors")
    assert all(torch.equal(kept[name], first[name]) for name in first)
    assert not list(tmp_path.glob("best-*"))


def read_target(result: Result) -> int:
    return result.config["variant"]["target_rank"]


def test_scoring_after_every_epoch_does_not_change_the_training(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    settings = ("train.epochs=4", "record.log_every=1", "model.dropout=0.1")
    execute(tiny_run("lora", "protocol=paper", *settings), tmp_path / "paper")
    execute(tiny_run("lora", *settings), tmp_path / "clean")
    histories = [(tmp_path / name / "history.jsonl").read_text() for name in ("paper", "clean")]
    assert histories[0] == histories[1]


def test_a_broken_run_keeps_its_best_epoch(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run("adalora", *PAPER)
    unbroken = execute(run, tmp_path / "unbroken")
    for stop in (3, 4, 7):
        with killed_after(monkeypatch, stop):
            execute(run, tmp_path / "broken")
    resumed = execute(run, tmp_path / "broken")
    assert resumed.epochs == unbroken.epochs
    assert resumed.scores == unbroken.scores
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")


@pytest.mark.parametrize("variant", ["lora", "adalora", "lora_drop", "full", "qa_lora"])
def test_a_run_can_begin_with_the_adapter_of_another(
    tiny_run: Callable[..., Run], tmp_path: Path, variant: str
) -> None:
    execute(tiny_run(variant, "task=mnli", "train.epochs=1"), tmp_path / "mnli")
    run = tiny_run(variant, "task=rte", f"start={tmp_path / 'mnli'}")
    job = prepare_run(run, run.protocol.load(run.task, run.data))
    trained = load_file(tmp_path / "mnli" / "adapter.safetensors")
    state = run.variant.learned_state(job.loaded.model.backbone)
    assert state.keys() == trained.keys()
    assert all(torch.equal(state[name], trained[name]) for name in state)
    result = execute(run, tmp_path / "rte")
    begun_with = (tmp_path / "mnli" / "adapter.safetensors").read_bytes()
    assert result.fingerprint["start"] == hashlib.sha256(begun_with).hexdigest()
    with pytest.raises(ValueError, match="holds an adapter of"):
        execute(tiny_run("dora", "task=rte", f"start={tmp_path / 'mnli'}"), tmp_path / "other")


def test_an_adapter_of_another_scale_is_no_start(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    execute(tiny_run("lora", "task=mnli", "train.epochs=1"), tmp_path / "mnli")
    begin = ("task=rte", f"start={tmp_path / 'mnli'}")
    run = tiny_run("lora", *begin, "variant.lr=1e-4", "variant.alpha=8")
    with pytest.raises(
        ValueError, match=r"another function with variant\.alpha=8\.0, which is 16\.0 there\."
    ):
        execute(run, tmp_path / "rte")
    other = tiny_run("lora", *begin, "train.precision=bf16")
    with pytest.raises(ValueError, match=r"with train\.precision=bf16, which is fp32 there\."):
        execute(other, tmp_path / "bf16")
    # What changes how one trains, and not what the adapter says, may differ.
    execute(tiny_run("lora", *begin, "variant.dropout=0.1"), tmp_path / "dropout")


def test_a_weight_that_has_begun_to_move_goes_on(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    execute(tiny_run("delta_lora", "task=mnli", "train.epochs=1"), tmp_path / "mnli")
    execute(tiny_run("delta_lora", "task=rte", f"start={tmp_path / 'mnli'}"), tmp_path / "rte")
    before, after = (load_file(tmp_path / run / "adapter.safetensors") for run in ("mnli", "rte"))
    fixed = [name for name in before if name.endswith(("A_k", "B_k"))]
    assert fixed and all(torch.equal(before[name], after[name]) for name in fixed)
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_a_start_that_is_no_run_is_named(tiny_run: Callable[..., Run], tmp_path: Path) -> None:
    run = tiny_run("lora", f"start={tmp_path / 'nothing'}")
    with pytest.raises(ValueError, match=r"nothing holds no adapter"):
        execute(run, tmp_path / "run")


def test_a_source_stays_what_it_was() -> None:
    source: Source = Mini(train=10, dev=10, test=10, seed=0, noise=0.0)
    guarded = train_only(source)
    assert guarded.name == "mini"
    assert isinstance(guarded, Mini)
