"""One folder per run: what it says, what it holds, and whether it is complete."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.disk.files import atomic_write, hash_file, read_lines
from experiments.disk.folders import tidy
from experiments.disk.locks import holder
from experiments.disk.outputs import UNFINISHED
from experiments.stored import result as stored
from experiments.stored.history import NAME as HISTORY
from experiments.stored.result import NAME, PREDICTIONS, SCHEMA
from experiments.stored.roles import is_harmless
from experiments.stored.shown import visible

if TYPE_CHECKING:  # who looks at scores only does not wait for it
    import pandas as pd

CHOSEN = ("variant", "model", "task", "data", "train", "tracker")  # one file each


@dataclass(frozen=True)
class Origin:
    """How a run was asked for: Hydra's choices of group files, and the overrides as typed."""

    choices: dict[str, str] = field(default_factory=dict)
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        for group in CHOSEN:
            # Hydra knows of no choice for variant=[lora,dora], and puts the second over the first.
            if self.choices and self.choices.get(group) is None:
                raise ValueError(f"{group} takes one file; several are a multirun: -m {group}=A,B.")

    def keeps_paper(self) -> bool:
        """Return whether a published setting is unchanged, but for its seed and where it runs."""
        parts = [part.lstrip("+~").partition("=") for part in self.overrides]
        return all(
            # Several presets at once are none of them, and a copy of the data is the data.
            (key == "experiment" and not value.startswith("["))
            or (key, value) == ("data", "local")
            or key == "data.dir"
            or key.partition(".")[0] == "hydra"
            or is_harmless(key)
            for key, _, value in parts
        )


@dataclass(frozen=True, repr=False)
class Result:
    """The result of a run, with everything that is needed to judge and repeat it."""

    status: str  # complete | diverged
    label: dict[str, str]
    seed: int
    primary: dict[str, Any]  # metric, score, interval, examples, floor
    scores: dict[str, dict[str, float]]  # by split
    cost: dict[str, Any]
    telemetry: dict[str, float]
    examples: dict[str, Any]  # counts and origins by split
    fingerprint: dict[str, Any]  # settings, data hashes, weights hash
    config: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]
    paper: str | None
    provenance: dict[str, Any]
    failure: str | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)  # epoch, step, score, settled
    files: dict[str, str] = field(default_factory=dict)  # sha256 of predictions, and of tensors
    forgetting: dict[str, Any] | None = None  # losses of general text, where they were asked for
    schema: int = SCHEMA
    folder: Path = field(default=Path(), compare=False)

    @property
    def title(self) -> str:
        """The labels and the seed in one line."""
        return title(self.label, self.seed)

    def __repr__(self) -> str:
        return "\n".join(visible(line) for line in (self.summary, self.folder))

    def _repr_html_(self) -> str:
        """A small table, which notebooks show."""
        rows = {"run": self.title, "score": self.outcome, "folder": str(self.folder)}
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{html.escape(visible(text))}</td></tr>"
            for name, text in rows.items()
        )
        return f"<table>{cells}</table>"

    @property
    def summary(self) -> str:
        """The name of the run and what came out, in one line."""
        return f"{self.title}: {self.outcome}"

    @property
    def outcome(self) -> str:
        """The score that runs are compared by, with its interval, or why there is none."""
        if not self.primary:
            return f"{self.status}: {self.failure}"
        low, high = self.primary["interval"]
        return (
            f"{self.primary['metric']} {self.primary['score']:.4f}, 95 % interval {low:.4f} to "
            f"{high:.4f}, {self.primary['examples']:,} examples"
        )

    @cached_property
    def predictions(self) -> "pd.DataFrame":
        """One row per evaluated example."""
        return stored.read_predictions(self.folder / PREDICTIONS, self.files.get(PREDICTIONS))

    @cached_property
    def history(self) -> "pd.DataFrame":
        """One row per logged step."""
        import pandas as pd

        return pd.DataFrame(read_lines(self.folder / HISTORY))

    def write(self) -> None:
        """Write result.json, the last file of a run, and take away what marks it unfinished."""
        content = asdict(self)
        del content["folder"]
        stored.write(self.folder, content)
        tidy(self.folder, LEFTOVERS)


class Diverged(ArithmeticError):  # noqa: N818 (a verdict on a run, not a fault)
    """The loss is not a number any more, or many times what it was at first."""


class Paused(Exception):  # noqa: N818 (no fault)
    """A run has come as far as it was to come for now; the same command goes on."""


def title(label: Mapping[str, str], seed: int) -> str:
    """The name of a run in one line."""
    return "/".join([*label.values(), f"s{seed}"])


# What a run that is over no longer needs; the mark is last, so that who finds it tidies again.
LEFTOVERS = ("checkpoint.safetensors", "best-*.safetensors", UNFINISHED)


def mark_unfinished(folder: Path) -> None:
    """Say in the folder that it holds no result yet."""
    with atomic_write(folder / UNFINISHED) as file:
        file.write_text(
            "This run has no result yet. The same command takes it up where it stopped.\n",
            encoding="utf-8",
        )


def read_result(folder: Path) -> Result:
    """The result of a finished run; what one left that was killed while it tidied is removed.

    Raises ValueError for a folder without one, or with one that cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        raise ValueError(f"{folder} holds no finished run: there is no {NAME} in it.")
    result = Result(**stored.read(path), folder=folder)
    if (folder / UNFINISHED).exists() and holder(folder) is None:
        tidy(folder, LEFTOVERS)
    return result


def write_predictions(folder: Path, frame: "pd.DataFrame") -> str:
    """Write one row per evaluated example; returns the sha256 of the file."""
    with atomic_write(folder / PREDICTIONS) as file:
        frame.to_parquet(file, index=False)
    return hash_file(folder / PREDICTIONS)
