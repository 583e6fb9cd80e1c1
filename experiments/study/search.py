"""Trials chosen by those before them: Optuna's tree-structured Parzen estimator.

Its storage are the runs themselves. The sampler is seeded, so asking again after the same scores
gives the same points: a search that is killed goes on, and two processes ask for the same.
"""

import logging
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from experiments.study.cells import Arm, Point, Trial
from experiments.study.design import is_list, rounded, typed

if TYPE_CHECKING:
    from experiments.study.plan import Plan

Space = tuple[tuple[str, tuple], ...]  # setting -> its values in order


def asked(plan: "Plan", arm: Arm) -> list[Trial]:
    """The trials of an arm so far; the last may not be over. The first is the method as it is."""
    study = plan.study
    space = tuple((key, tuple(plan.values(arm, key))) for key in study.tuned)
    size = prod(len(values) for _, values in space)
    trials: list[Trial] = []
    scores: list[float | None] = []
    own = tuple(arm.own(key) for key in study.tuned)
    for _ in range(study.trials or size):
        logs = tuple(not is_list(study.tuned[key]) for key in study.tuned)
        trials.append(plan.trial(arm, ask(space, logs, own, tuple(scores))))
        if not plan.over(trials[-1]):
            break
        scores.append(trials[-1].score)
    return trials


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
    known.enqueue_trial({key: value for (key, _), value in zip(space, own, strict=True)})
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
