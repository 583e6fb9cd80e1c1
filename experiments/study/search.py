"""Trials chosen by those before them: Optuna's tree-structured Parzen estimator.

Its storage are the runs themselves. The sampler is seeded, so asking again after the same scores
gives the same points: a search that is killed goes on, and two processes ask for the same.
"""

import json
import logging
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from experiments.study.arms import Arm
from experiments.study.cells import Point, Trial
from experiments.study.design import is_list, rounded, typed

if TYPE_CHECKING:
    from experiments.study.plan import Plan

Space = tuple[tuple[str, tuple], ...]  # setting -> its values in order


def asked(plan: "Plan", arm: Arm) -> list[Trial]:
    """The trials of an arm so far; the last may not be over. The first is the method as it is."""
    study = plan.study
    logs = tuple(not is_list(axis) for axis in study.tuned.values())
    values = [plan.values(arm, key) for key in study.tuned]
    own = tuple(map(arm.own, study.tuned))
    # The values of a list as they are typed, whatever they are.
    choices = [line if log else map(as_typed, line) for line, log in zip(values, logs, strict=True)]
    space = tuple(zip(study.tuned, map(tuple, choices), strict=True))
    own = tuple(value if log else as_typed(value) for value, log in zip(own, logs, strict=True))
    size = prod(len(values) for _, values in space)
    trials: list[Trial] = []
    scores: list[float | None] = []
    for _ in range(study.trials or size):
        trials.append(plan.trial(arm, ask(space, logs, own, tuple(scores))))
        if not plan.over(trials[-1]):
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
            typed(key, suggest(trial, key, values, log))
            for (key, values), log in zip(space, logs, strict=True)
        )
        if score is ...:
            return point
        state = optuna.trial.TrialState
        known.tell(trial, score, state=state.PRUNED if score is None else state.COMPLETE)
    raise AssertionError("There is always a point to ask for.")


def suggest(trial: Any, key: str, values: tuple, log: bool) -> Any:
    """A value for one setting: of the whole range of a log grid, or one of a list."""
    if log:
        return rounded(trial.suggest_float(key, values[0], values[-1], log=True))
    return trial.suggest_categorical(key, values)
