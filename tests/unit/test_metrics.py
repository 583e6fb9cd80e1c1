"""GLUE's metrics: numbers worked out by hand, the same as scikit-learn's and SciPy's."""

import time
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from experiments.metrics.accuracy import accuracy
from experiments.metrics.base import LabelMetric, find_label_metric, names_of
from experiments.metrics.correlations import pearson, spearman
from experiments.metrics.f1 import f1
from experiments.metrics.matthews import matthews

METRICS = {name: find_label_metric(name).value for name in names_of(LabelMetric)}
LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 1])
PREDICTIONS = np.array(
    [1, 0, 1, 0, 1, 0, 0, 0]
)  # 2 true positives, 3 true negatives, 1 and 2 wrong


def interval(
    metric: str, labels: np.ndarray, told: np.ndarray, generator: np.random.Generator
) -> tuple[float, float]:
    return find_label_metric(metric).interval(labels, told, generator)


def test_accuracy_is_the_share_of_equal_codes():
    assert accuracy(LABELS, PREDICTIONS) == 5 / 8


def test_f1_is_of_the_second_class():
    # Precision 2/3, recall 2/4.
    assert f1(LABELS, PREDICTIONS) == pytest.approx(4 / 7)


def test_matthews_is_the_published_formula():
    # (tp tn - fp fn) / sqrt((tp+fp)(tp+fn)(tn+fp)(tn+fn)) = (6 - 2) / sqrt(3 * 4 * 4 * 5)
    assert matthews(LABELS, PREDICTIONS) == pytest.approx(4 / np.sqrt(240))


def test_pearson_and_spearman_match_numbers_worked_out_by_hand():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0])
    # Centred y is (-11, -2, 13) / 3; the sums of squares are 2 and 294 / 9.
    assert pearson(x, y) == pytest.approx(8 / np.sqrt(2 * 294 / 9))
    assert spearman(x, y) == pytest.approx(1.0)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_class_metrics_equal_those_of_scikit_learn(num_classes: int):
    generator = np.random.default_rng(0)
    labels = generator.integers(num_classes, size=300)
    predictions = np.where(generator.random(300) < 0.6, labels, 1)
    assert accuracy(labels, predictions) == pytest.approx(accuracy_score(labels, predictions))
    assert matthews(labels, predictions) == pytest.approx(matthews_corrcoef(labels, predictions))
    if num_classes == 2:
        assert f1(labels, predictions) == pytest.approx(f1_score(labels, predictions))


def test_score_metrics_equal_those_of_scipy_with_ties():
    generator = np.random.default_rng(0)
    labels = np.round(generator.random(300) * 5, 1).astype(np.float32)
    predictions = (labels + generator.normal(size=300)).astype(np.float32)
    expected = stats.pearsonr(labels.astype(float), predictions.astype(float)).statistic
    assert pearson(labels, predictions) == pytest.approx(expected)
    expected = stats.spearmanr(labels, predictions).statistic
    assert spearman(labels, predictions) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
def test_constant_predictions_correlate_with_nothing(name: str):
    labels = np.array([0, 1, 0, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert METRICS[name](labels, np.full(5, 1)) == 0.0
        # The mean of six times 0.1 is not 0.1 in floating point.
        assert METRICS[name](np.array([0.1, 0.7, 0.3, 0.2, 0.9, 0.5]), np.full(6, 0.1)) == 0.0


def test_f1_without_any_positive_is_zero():
    assert f1(np.zeros(4, dtype=int), np.zeros(4, dtype=int)) == 0.0


@pytest.mark.parametrize("name", list(METRICS))
def test_a_metric_over_the_last_axis_is_that_of_each_row(name: str):
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(2, size=(2, 5, 20))
    expected = [METRICS[name](a, b) for a, b in zip(labels, predictions, strict=True)]
    np.testing.assert_allclose(METRICS[name](labels, predictions, axis=-1), expected)


def test_the_interval_depends_only_on_the_generator():
    first = interval("matthews", LABELS, PREDICTIONS, np.random.default_rng(1))
    assert first == interval("matthews", LABELS, PREDICTIONS, np.random.default_rng(1))
    assert first != interval("matthews", LABELS, PREDICTIONS, np.random.default_rng(2))


def test_the_interval_of_accuracy_is_that_of_the_binomial():
    labels = np.ones(400, dtype=int)
    predictions = np.arange(400) % 4 != 0
    low, high = interval("accuracy", labels, predictions, np.random.default_rng(0))
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.01)
    assert high == pytest.approx(0.75 + half, abs=0.01)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(50):
        predictions = (generator.random(200) < 0.8).astype(int)
        low, high = interval("accuracy", np.ones(200, dtype=int), predictions, generator)
        covered += low <= 0.8 <= high
    assert 43 <= covered <= 50


@pytest.mark.parametrize("name", list(METRICS))
def test_the_interval_is_never_nan(name: str):
    labels, constant = np.array([0, 1, 0, 1]), np.zeros(4, dtype=int)
    for predictions in (constant, labels):
        ends = interval(name, labels, predictions, np.random.default_rng(0))
        assert np.isfinite(ends).all() and ends[0] <= ends[1]


def test_one_example_gives_an_interval_without_width():
    ones = np.ones(1, dtype=int)
    assert interval("accuracy", ones, ones, np.random.default_rng(0)) == (1.0, 1.0)


@pytest.mark.parametrize("name", ["accuracy", "matthews", "pearson"])
def test_the_interval_over_ten_thousand_examples_takes_seconds(name: str):
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(2, size=(2, 10_000))
    start = time.perf_counter()
    interval(name, labels, predictions, generator)
    # It takes about one on two cores; a call for each resample would take many more.
    assert time.perf_counter() - start < 5
