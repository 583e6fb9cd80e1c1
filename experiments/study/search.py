"""The points at which methods are tried: spread over a space, or each chosen by earlier scores.

Optuna's storage are the runs themselves. Its sampler is seeded, so asking again after the same
scores gives the same points: a killed search continues, and two processes ask for the same.
"""

import json
import logging
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

from omegaconf import OmegaConf

from experiments.study.arms import Arm
from experiments.study.cells import Point, Trial
from experiments.study.design import Study, format_override, is_list, log_grid, round_rate

Space = tuple[tuple[str, tuple], ...]  # setting -> its values in order


def sample_points(study: Study, arm: Arm) -> list[Point]:
    """As many points of a method's own space as every method gets, first the method as it is.

    A single axis of numbers becomes a finer or coarser grid over the same decades; of several, the
    points are Halton's, which leave no part of the space empty.
    """
    axes, number = study.axes_of(arm.method), study.trials or 1
    ((key, axis), *others) = axes.items()
    if not others and not is_list(axis):
        grid = log_grid(float(arm.own_value(key)), axis["decades"], number)
        return [(format_override(key, value),) for value in grid]
    from scipy.stats import qmc

    draws = qmc.Halton(len(axes), rng=0).random(4 * number)[1:]
    own = tuple(format_override(key, as_typed(arm.own_value(key))) for key in axes)
    points = [
        tuple(
            place_on_axis(arm, key, axis, u)
            for (key, axis), u in zip(axes.items(), row, strict=True)
        )
        for row in draws.tolist()
    ]
    return list(dict.fromkeys([own, *points]))[:number]


def place_on_axis(arm: Arm, key: str, axis: Any, share: float) -> str:
    """The setting at this share of the way through an axis."""
    if is_list(axis):
        return format_override(key, as_typed(axis[int(share * len(axis))]))
    return format_override(
        key, round_rate(float(arm.own_value(key)) * 10 ** (axis["decades"] * (share - 0.5)))
    )


def ask_trials(
    study: Study,
    arm: Arm,
    values: list[list],
    trial: Callable[[Point], Trial],
    is_finished: Callable[[Trial], bool],
) -> list[Trial]:
    """The trials of an arm so far; the last may not be over. The first is the method as it is.

    `values` are those of each axis, and `trial` says what is known of a point.
    """
    axes = study.axes_of(arm.method)
    logs = tuple(not is_list(axis) for axis in axes.values())
    own = tuple(map(arm.own_value, axes))
    # The values of a list as they are typed, whatever they are.
    choices = [line if log else map(as_typed, line) for line, log in zip(values, logs, strict=True)]
    space = tuple(zip(axes, map(tuple, choices), strict=True))
    own = tuple(value if log else as_typed(value) for value, log in zip(own, logs, strict=True))
    size = prod(len(values) for _, values in space)
    trials: list[Trial] = []
    scores: list[float | None] = []
    for _ in range(1 if size == 1 else study.trials or size):
        trials.append(trial(ask(space, logs, own, tuple(scores))))
        if not is_finished(trials[-1]):
            break
        scores.append(trials[-1].score)
    return trials


def as_typed(value: Any) -> str:
    """A value of any kind as it stands behind a setting's name."""
    return json.dumps(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)


@cache
def ask(space: Space, logs: tuple[bool, ...], own: tuple, scores: tuple) -> Point:
    """The point after trials with these scores; None is the score of one that diverged."""
    try:
        import optuna
    except ImportError:
        raise ValueError("study.search=optuna needs Optuna: pip install -e '.[optuna]'.") from None

    optuna.logging.set_verbosity(logging.WARNING)
    known = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=4)
    )
    places = zip(space, own, logs, strict=True)
    known.enqueue_trial(
        {key: value for (key, values), value, log in places if log or value in values}
    )
    for score in (*scores, ...):
        trial = known.ask()
        point = tuple(
            format_override(key, suggest(trial, key, values, log))
            for (key, values), log in zip(space, logs, strict=True)
        )
        if score is ...:
            return point
        state = optuna.trial.TrialState
        known.tell(trial, score, state=state.PRUNED if score is None else state.COMPLETE)
    raise AssertionError("There is always a point to ask for.")


def suggest(trial: Any, key: str, values: tuple, log: bool) -> Any:
    """A value for one setting: of the whole range of a log grid, or one of a list."""
    if values[0] == values[-1]:
        return values[0]
    if log:
        return round_rate(trial.suggest_float(key, values[0], values[-1], log=True))
    return trial.suggest_categorical(key, values)
