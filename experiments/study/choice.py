"""The choice among a method's points: the best, the two of a race, and where the best one lies."""

from experiments.study.cells import Trial


def best(trials: list[Trial]) -> Trial | None:
    """The trial with the highest score, the first of several; None if none succeeded.

    Only the trials with the most runs count: in a race the two that got more runs.
    """
    scored = [trial for trial in trials if trial.score is not None]
    most = max((len(trial.cells) for trial in scored), default=0)
    return max((t for t in scored if len(t.cells) == most), key=score, default=None)


def finalists(trials: list[Trial]) -> tuple[Trial, Trial] | None:
    """The two points of a race that got more runs, the better first, if both have a score."""
    scored = [trial for trial in trials if len(trial.cells) > 1 and trial.score is not None]
    if len(scored) < 2:
        return None
    first, second = sorted(scored, key=score, reverse=True)
    return first, second


def score(trial: Trial) -> float:
    """The score of a trial that has one."""
    assert trial.score is not None
    return trial.score


def edge(trials: list[Trial]) -> int:
    """The end of an axis of numbers at which the best point lies: -1 low, 1 high, 0 neither."""
    chosen = best(trials)
    if chosen is None:
        return 0
    for axis, value in zip(zip(*(t.point for t in trials), strict=True), chosen.point, strict=True):
        numbers = sorted(
            {number for setting in axis if (number := parse_number(setting)) is not None}
        )
        place = parse_number(value)
        if len(numbers) > 1 and place in (numbers[0], numbers[-1]):
            return -1 if place == numbers[0] else 1
    return 0


def parse_number(setting: str) -> float | None:
    """The number of `variant.lr=0.001`; None for what is no number."""
    try:
        return float(setting.partition("=")[2])
    except ValueError:
        return None


def extend_grid(ends: tuple[int, int], trials: list[Trial]) -> tuple[int, int]:
    """The ends of a grid that grows by a point, on the side nearer to its best point."""
    low, high = ends
    chosen = best(trials)
    place = 0 if chosen is None else trials.index(chosen)
    return (low + 1, high) if 2 * place < len(trials) else (low, high + 1)
