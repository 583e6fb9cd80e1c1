"""The planted task: what is planted is known, and the head alone cannot learn it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.mini import planted
from experiments.mini.planted import Planted, Teacher, states, tokens
from experiments.models.model import Loaded
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read

Planter = Callable[..., Run]


@pytest.fixture(scope="module", autouse=True)
def few_texts() -> Iterator[None]:
    """A narrow model's read-out follows from few texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted, "CALIBRATION", 256)
        yield


@pytest.fixture(scope="session")
def planted_run(tiny_run: Callable[..., Run]) -> Planter:
    """A run of the planted task on a tiny model."""

    def make(*overrides: str) -> Run:
        sizes = ("data.train=256", "data.dev=64", "data.test=64")
        return tiny_run("lora", "task=planted", *sizes, *overrides)

    return make


@pytest.fixture(scope="module")
def run(planted_run: Planter) -> Run:
    return planted_run()


@pytest.fixture(scope="module")
def task(run: Run) -> Planted:
    assert isinstance(run.task, Planted)
    return run.task


@pytest.fixture(scope="module")
def teacher(task: Planted) -> Teacher:
    return task.teacher()


@pytest.fixture
def base(task: Planted) -> Loaded:
    """The unmodified backbone."""
    return task.pretrained().load(1, torch.Generator(), "fp32")


def error(run: Run, teacher: Teacher, student: Loaded) -> float:
    """The mean squared error of a student's backbone under the teacher's read-out."""
    dev = run.task.load(run.data).score["dev"]
    texts = [text for (text,) in dev.texts]
    student.model.double()
    outputs = teacher.labels(states(student, tokens(student, texts, 64))).numpy()[:, None]
    assert dev.labels is not None
    return run.task.score(dev.labels, outputs)["mse"]


def test_a_student_with_the_teachers_weights_has_no_error_and_the_unmodified_one_has(
    run: Run, teacher: Teacher, base: Loaded
) -> None:
    assert error(run, teacher, base) > 0.3
    for name, weight in teacher.weights.items():
        base.model.backbone.get_submodule(name).weight.data.copy_(weight)
    assert error(run, teacher, base) < 1e-10


def test_the_unmodified_backbone_explains_much_less_of_the_labels_than_of_a_random_read_out(
    task: Planted, teacher: Teacher, base: Loaded
) -> None:
    texts = tokens(base, planted.draw_texts(5, 1000, "train"), 64)
    before, after = states(base, texts).double(), states(teacher.loaded, texts)
    before = torch.cat((before, torch.ones(len(before), 1)), dim=1)
    drawn = torch.randn(after.shape[1], generator=torch.Generator().manual_seed(0))
    random = after @ drawn.double()

    def left(values: torch.Tensor) -> float:
        """The share of the variance that the best linear read-out does not explain."""
        train, dev = values.double().split(500)
        solution = torch.linalg.lstsq(before[:500], train[:, None]).solution[:, 0]
        return float((dev - before[500:] @ solution).var() / dev.var())

    planted_left = left(teacher.labels(after))
    assert planted_left > 0.1 and planted_left > 4 * left(random)


def test_labels_are_standardised_and_follow_from_the_settings(run: Run) -> None:
    data, again = (run.task.load(run.data) for _ in range(2))
    assert np.array_equal(data.train.labels, again.train.labels)
    assert data.train.texts == again.train.texts and data.train.sha256 == again.train.sha256
    assert abs(float(data.train.labels.mean())) < 0.3
    assert float(data.train.labels.std()) == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("change", ["task.seed=1", "task.size=0.5", "task.rank=2", "data.seed=1"])
def test_another_setting_is_other_data(planted_run: Planter, run: Run, change: str) -> None:
    changed = planted_run(change)
    first = run.task.load(run.data).train
    other = changed.task.load(changed.data).train
    assert first.sha256 != other.sha256
    assert not np.array_equal(first.labels, other.labels)


def test_noise_replaces_its_share_of_the_labels(planted_run: Planter, run: Run) -> None:
    noisy = planted_run("data.noise=0.25")
    first, other = run.task.load(run.data).train, noisy.task.load(noisy.data).train
    assert first.texts == other.texts and first.sha256 != other.sha256
    assert float((first.labels != other.labels).mean()) == pytest.approx(0.25, abs=0.08)


def test_splits_share_no_text_and_a_longer_one_begins_like_a_shorter(
    planted_run: Planter, run: Run
) -> None:
    longer = planted_run("task.score_on=[dev,test]", "data.train=400")
    data = longer.task.load(longer.data)
    parts = [data.train, data.score["dev"], data.score["test"]]
    texts = [{text for (text,) in part.texts} for part in parts]
    assert [len(part) for part in texts] == [400, 64, 64]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    assert run.task.load(run.data).train.texts == data.train.texts[:256]


def test_only_the_named_matrices_of_the_named_blocks_are_changed(
    task: Planted, teacher: Teacher, base: Loaded
) -> None:
    before = dict(base.model.backbone.named_parameters())
    changed = {
        name.removesuffix(".weight")
        for name, parameter in teacher.loaded.model.backbone.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    assert changed == set(teacher.weights)
    assert changed == {f"encoder.layer.{n}.attention.self.value" for n in (0, 1)}


def both(task: Planted, base: Loaded, teacher: Teacher) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each changed matrix, before and after."""
    weights = base.model.backbone.get_parameter
    return [(weights(f"{name}.weight").detach(), W) for name, W in teacher.weights.items()]


def test_a_low_rank_update_has_its_rank_and_its_size(
    task: Planted, base: Loaded, teacher: Teacher
) -> None:
    for W0, W in both(task, base, teacher):
        assert int(torch.linalg.matrix_rank((W - W0).double(), rtol=1e-4)) == task.rank == 4
        assert float((W - W0).norm() / W0.norm()) == pytest.approx(task.size, rel=1e-4)


def test_a_magnitude_changes_row_norms_only_and_a_direction_keeps_them(
    planted_run: Planter, base: Loaded
) -> None:
    magnitude = planted_run("task.kind=magnitude", "task.rank=null", "task.size=0.5").task
    direction = planted_run("task.kind=direction").task
    assert isinstance(magnitude, Planted) and isinstance(direction, Planted)
    cosine = torch.nn.functional.cosine_similarity
    for W0, W in both(magnitude, base, magnitude.teacher()):
        torch.testing.assert_close(cosine(W0, W), torch.ones(len(W)))
        spread = (W.norm(dim=1) / W0.norm(dim=1)).log()
        assert float(spread.std()) == pytest.approx(0.5, rel=0.2)
    for W0, W in both(direction, base, direction.teacher()):
        torch.testing.assert_close(W.norm(dim=1), W0.norm(dim=1))
        assert float(cosine(W0, W).max()) < 0.999


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_every_family_can_be_taught(tiny_run: Callable[..., Run], family: str, tmp_path: Path):
    targets = {"roberta": "value", "gpt2": "v"}[family]
    run = tiny_run("lora", "task=planted", f"task.targets=[{targets}]", family=family)
    result = execute(run, tmp_path)
    assert result.label["task"] == "mini/planted"
    assert result.primary["metric"] == "pearson"
    assert list(result.scores["dev"]) == ["pearson", "spearman", "mse"]


def test_the_directions_are_those_that_the_state_before_does_not_explain() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(500, 6, generator=generator).double()
    new = torch.randn(500, generator=generator).double()
    after = before @ torch.randn(6, 6, generator=generator).double()
    after[:, 2] = 3 * new
    (direction,) = planted.least_explained(before, after, 1).T
    assert float(np.corrcoef(after @ direction, new)[0, 1]) == pytest.approx(1.0, abs=1e-2)
    assert float((after @ direction).std()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "task.kind=rotation",
            "kind must be one of low_rank, magnitude, direction, got 'rotation'.",
        ),
        ("task.kind=magnitude", "rank must be null for a magnitude, got 4."),
        ("task.rank=null", "rank must be at least 1, got None."),
        ("task.rank=0", "rank must be at least 1, got 0."),
        ("task.size=0", "size must be positive, got 0.0."),
        ("task.score_on=[def]", "Task 'planted' has no split 'def'. It has: train, dev, test."),
        ("task.layers=[4]", "layers must lie in -2 to 1, got 4."),
        ("task.layers=[]", "layers must name at least one block, got none."),
        ("task.targets=[valeu]", "No linear layer is named 'valeu'. Did you mean 'value'?"),
    ],
)
def test_a_wrong_setting_is_named(planted_run: Planter, override: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:
        run = planted_run(override)
        run.task.load(run.data)
    assert said in str(raised.value)


def test_other_data_than_the_suites_is_refused() -> None:
    run = read(compose_config("task=planted", "data=local", "data.dir=."))
    with pytest.raises(ValueError, match="it takes data=mini only"):
        run.task.load(run.data)


def test_equal_settings_give_equal_labels_however_sums_are_rounded(run: Run) -> None:
    first, kept = run.task.load(run.data).train, []
    threads = torch.get_num_threads()
    try:
        for number in range(6):
            torch.set_num_threads(1 + number % 2)
            kept.append(torch.empty(1001 * (number + 1)))  # memory lies otherwise next time
            again = run.task.load(run.data).train
            assert np.array_equal(first.labels, again.labels) and first.sha256 == again.sha256
    finally:
        torch.set_num_threads(threads)


def test_other_labels_are_other_data(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run.task.load(run.data).train
    labels = Teacher.labels
    monkeypatch.setattr(Teacher, "labels", lambda self, states: labels(self, states) + 1e-4)
    other = run.task.load(run.data).train
    assert first.texts == other.texts and first.sha256 != other.sha256
