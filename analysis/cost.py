"""The cost of quality: parameters, seconds, memory, bytes, latency, and who is best for how much.

Seconds and memory are those of one machine and one stack of software, so a table never averages
over several, and what compares costs refuses more than one.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.family import count

Frame = Any  # a pandas.DataFrame, of whose columns a type checker knows nothing
COSTS = {
    "trained": "trained parameters",
    "train_seconds": "seconds of training",
    "train_processor_seconds": "seconds of the processor in training",
    "train_flops": "operations of training",
    "train_peak_mib": "peak memory of training, MiB",
    "adapter_bytes": "bytes of the adapter",
    "adapted_ms": "latency with the adapter in place, ms",
    "merged_ms": "latency merged, ms",
}
COUNTED = ("trained", "train_flops", "adapter_bytes")  # the same on every machine
BUDGETS = {"parameters": "trained", "compute": "train_flops", "memory": "train_peak_mib"}
STACK = ["device", "threads", "processes", "products", "torch", "code"]
TASK = ["task", "model", "protocol"]


def ends(column: str) -> tuple[str, str, str]:
    """The names of a mean and of the ends of its interval."""
    return column, f"{column}_low", f"{column}_high"


MEASURED = [end for column in ("score", *COSTS) for end in ends(column)]
COLUMNS = [*TASK, *STACK, "variant", "metric", "seeds", *MEASURED]


def table(runs: Frame, confidence: float = 0.95, by: list[str] = STACK) -> Frame:
    """A row for each method, task and stack: means over seeds, with the ends of their intervals.

    With nothing in `by`, costs in COUNTED are means over all machines, and the others are not
    known (NaN).

    Of every value `x` there is `x`, `x_low` and `x_high`; one seed has no interval (NaN). `seeds`
    counts the runs, of which only those that came to their end are looked at.
    """
    done = runs[runs["status"] == "complete"]
    rows = []
    known = ("score", *(COSTS if by else COUNTED))
    for key, group in done.groupby([*TASK, *by, "variant"], sort=False, dropna=False):
        row = dict(zip([*TASK, *by, "variant"], key, strict=True))
        row |= {"metric": group["metric"].iloc[0], "seeds": len(group)}
        for column in known:
            values = group[column].to_numpy(dtype=float)
            row |= dict(zip(ends(column), interval(values, confidence), strict=True))
        rows.append(row)
    return pd.DataFrame(rows, columns=[name for name in COLUMNS if by or name not in STACK])


def interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean of values [n] and Student's interval of it; what was not measured is NaN."""
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return (float(values.mean()) if len(values) else np.nan), np.nan, np.nan
    mean = float(values.mean())
    reach = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values))
    return mean, mean - reach, mean + reach


def stacks(table: Frame) -> Frame:
    """The machines and stacks in a table, one row each."""
    return table[STACK].drop_duplicates(ignore_index=True)


def one_stack(table: Frame) -> None:
    """Raise if costs of several machines or stacks stand in one table."""
    if not set(STACK) <= set(table):  # of counted costs alone
        return
    if len(found := stacks(table)) > 1:
        said = "; ".join(describe(row) for row in found.to_dict("records"))
        raise ValueError(f"Costs are compared on one machine and stack at a time, got {said}.")


def describe(stack: dict, fields: Collection[str] = STACK) -> str:
    """A machine and its stack in a few words, or only some fields of them."""
    threads = count(stack["threads"], "thread")
    if stack["processes"] > 1:
        threads = f"{count(stack['processes'], 'process')} of {threads}"
    parts = {
        "device": stack["device"], "threads": threads, "processes": "",
        "products": f"float32 products {stack['products']}", "torch": f"torch {stack['torch']}",
        "code": f"code {stack['code'][:7]}",
    }  # fmt: skip
    asked = {"threads" if field == "processes" else field for field in fields}
    return ", ".join(text for field, text in parts.items() if field in asked)


def differing_fields(table: Frame) -> list[str]:
    """The fields by which the machines and stacks of a table differ; all of them if it has one."""
    found = stacks(table)
    fields = [field for field in STACK if found[field].nunique(dropna=False) > 1]
    return fields or STACK


def front(table: Frame, cost: str) -> Frame:
    """Mark the rows that no other beats: none is as cheap and as good, and better in one."""
    one_stack(table)
    price, score = table[cost].to_numpy(), table["score"].to_numpy()
    cheap, good = price[:, None] >= price, score[:, None] <= score  # [row, other]: other at least
    better = (price[:, None] > price) | (score[:, None] < score)
    beaten = (cheap & good & better).any(axis=1)
    return pd.Series(~beaten & ~np.isnan(price) & ~np.isnan(score), index=table.index)


def within(table: Frame, cost: str) -> Frame:
    """The best mean score within each budget: `budget`, `variant`, `score`.

    A budget is what one of the methods costs; it is listed if it buys something better.
    """
    best = table[front(table, cost)].sort_values([cost, "variant"], ignore_index=True)
    found = best[[cost, "variant", "score"]].rename(columns={cost: "budget"})
    return found.drop_duplicates(["budget", "score"], ignore_index=True)


def tuning(trials: Frame) -> Frame:
    """Return the cost of finding the settings, by task and method.

    `runs`, `seconds`, `processor_seconds` and `train_flops`. Diverged trials count: they were
    paid for.
    """
    groups = trials.groupby([*TASK, *STACK, "variant"], sort=False, dropna=False)
    found = groups.agg(
        runs=("seed", "size"),
        seconds=("seconds", "sum"),
        # No number where one trial has none: a sum of the others would look cheaper.
        processor_seconds=("processor_seconds", total),
        train_flops=("train_flops", "sum"),
    )
    return found.reset_index()


def total(values: Frame) -> float:
    """A sum that is not known if one of its parts is not."""
    return float(values.astype(float).sum(skipna=False))
