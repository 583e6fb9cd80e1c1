"""The material of a report: the runs below a folder, their stages, and what is comparable."""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import readable, row
from experiments.stored import result, summary
from experiments.stored.shown import visible

# Settings that say which repetition a run is, where it ran and where its files lie, not what it is.
BESIDE = ("seed", "paper", "part_of", "protocol.stage", "data.dir", "model.path", "tracker",
          "forgetting", "train.device", "train.log_every", "train.checkpoint_every",
          "train.eval_batch_size", "train.snapshots", "train.explode")  # fmt: skip
TUNING_SEED = 1000  # a study's first seed of a trial, where no list says which runs are trials
PLACE = ["task", "model", "protocol"]
OF_DATA = ("data.", "model.", "task.")  # settings that tell one task's data apart
SEPARATOR = " · "  # in the name of a group: task, model, protocol and, where needed, data
TEST, SELECT, START, STALE = "test", "select", "start", "stale"
Record = dict[str, Any]
Frame = Any  # a pandas.DataFrame, of whose columns a type checker knows nothing


@dataclass(frozen=True, kw_only=True)
class Material:
    """Runs as a table, the results behind its rows in the same order, and summaries of studies.

    Beside the columns of `analysis.load` a run has: `stage` (test: it is compared; select: it
    chose a setting; start: others began with it; stale: a study has since decided otherwise),
    `choice` (0 in the setting that tuning chose, 1 in the one that came second),
    `method` (the variant, or what the study calls it, and the settings that tell two of one name
    apart), `group` (what can be compared has the same), `data` and `settings`.
    """

    folder: Path
    runs: Frame
    results: list[Record]
    studies: list[Record]
    left_out: list[str]  # what lies there and cannot be read, and why

    @property
    def tested(self) -> Frame:
        """The runs that are compared."""
        return self.runs[self.runs["stage"] == TEST]

    @property
    def trials(self) -> Frame:
        """The runs by which settings were chosen."""
        return self.runs[self.runs["stage"] == SELECT]


def gather(*folders: str | Path) -> Material:
    """All that lies below one folder, or below each of several.

    What cannot be read is left out, and named on the standard error stream. Raises ValueError if
    there is no finished run.
    """
    parts = [readable(folder) for folder in folders]
    found = [run for runs, _ in parts for run in runs]
    left_out = [reason for _, reasons in parts for reason in reasons]
    studies, damaged = summaries(folders)
    found, stages, unscored = with_predictions(found, stages_of(found, studies))
    left_out += damaged + unscored
    for reason in left_out:
        print(f"left out: {visible(reason)}", file=sys.stderr)
    if not found:
        raise ValueError(left_out[-1])
    runs = pd.DataFrame([row(result) for result in found])
    runs["stage"] = stages
    runs["choice"] = choices(runs, studies)
    runs["base"] = [name(result) for result in found]
    runs["data"] = [data(result) for result in found]
    runs["finished"] = [result["provenance"]["finished"] for result in found]
    settings = [flat(result["config"]) for result in found]
    runs["group"] = groups(runs, settings)
    runs["settings"] = told_apart(runs, settings)
    runs["method"] = runs["base"] + runs["settings"].map(lambda text: f" [{text}]" if text else "")
    return Material(
        folder=Path(commonpath(folders)),
        runs=runs,
        results=found,
        studies=studies,
        left_out=left_out,
    )


def summaries(folders: Iterable[str | Path]) -> tuple[list[Record], list[str]]:
    """Read the summaries of studies below some folders; also return why others cannot be read."""
    found: list[Record] = []
    left_out: list[str] = []
    for path in (path for folder in folders for path in sorted(Path(folder).rglob(summary.NAME))):
        try:
            content = summary.read(path)
        except ValueError as error:
            left_out.append(str(error))
            continue
        if content is not None:
            found.append(content)
    return found, left_out


def with_predictions(
    runs: list[Record], stages: list[str]
) -> tuple[list[Record], list[str], list[str]]:
    """The runs, and their stages, without those whose predictions cannot be read; and why not.

    Those that are compared need some; of trials they may be absent.
    """
    left_out: list[str] = []
    kept: list[tuple[Record, str]] = []
    for run, own in zip(runs, stages, strict=True):
        try:
            there = (Path(run["folder"]) / result.PREDICTIONS).exists()
            if run["status"] == "complete" and (own == TEST or there):
                result.check_predictions(run)
        except ValueError as error:
            left_out.append(str(error))
            continue
        kept.append((run, own))
    return [run for run, _ in kept], [own for _, own in kept], left_out


def stages_of(runs: Iterable[Record], studies: list[Record]) -> list[str]:
    """Return the stage of each run."""
    by_name: dict[str, list[Record]] = {}
    for study in studies:
        by_name.setdefault(study["study"], []).append(study)
    listed = {name: listing(own) for name, own in by_name.items()}
    return [stage(run, listed) for run in runs]


def stage(result: Record, listed: Mapping[str, dict[tuple[str, ...], str]]) -> str:
    """Return the stage of a run: as its study lists it, else as the run itself says."""
    own = result["config"]["protocol"].get("stage")
    group = study_of(result)
    if known := listed.get(group or ""):
        return known.get(place(result["folder"]), STALE)
    if own is None and group is not None and result["seed"] >= TUNING_SEED:
        return SELECT
    return own or TEST


def study_of(result: Record) -> str | None:
    """The name of the study that a run is of; a run of earlier versions has it as its group."""
    config = result["config"]
    if "part_of" in config:
        return config["part_of"][0] if config["part_of"] else None
    return (config.get("tracker") or {}).get("group")


def listing(studies: Iterable[Record]) -> dict[tuple[str, ...], str]:
    """The stage of every run that studies list; of several the one that is reported."""
    found: dict[tuple[str, ...], str] = {}
    for study in studies:
        for cell in study["cells"]:
            key = place(cell["folder"])
            if found.get(key) != TEST:
                found[key] = cell["stage"]
    return found


def choices(runs: Frame, studies: Iterable[Record]) -> list[int]:
    """Whether a study reports each run in the setting that came second (1), or not (0)."""
    second = {
        place(cell["folder"])
        for study in studies
        for cell in study["cells"]
        if cell.get("choice") and cell["stage"] == TEST
    }
    return [
        int(stage == TEST and place(folder) in second)
        for folder, stage in runs[["folder", "stage"]].to_numpy()
    ]


def place(folder: str) -> tuple[str, ...]:
    """Identify a run's folder wherever it was moved: variant, seed and hash of its settings."""
    return Path(folder).parts[-2:]


def name(result: Record) -> str:
    """Return the name of a method: as its study calls it, else its variant."""
    config = result["config"]
    if "part_of" in config:
        return config["part_of"][1] if config["part_of"] else result["label"]["variant"]
    # Runs of earlier versions say so in their tags alone.
    tracker = config.get("tracker") or {}
    tags = tracker.get("tags") or []
    return tags[2] if tracker.get("group") and len(tags) == 3 else result["label"]["variant"]


def data(result: Record) -> str:
    """A short hash of the data, the pretrained weights, and of what is scored on them and how."""
    print_, task = result["fingerprint"], result["config"]["task"]
    scored = [task.get("metrics"), task.get("score_on")]
    text = json.dumps([print_["data"], print_["model"], *scored], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:7]


def flat(config: Record, prefix: str = "") -> dict[str, str]:
    """Settings by dotted name as text, without those that only say where and which repetition.

    Equal texts of many runs are one in memory.
    """
    found: dict[str, str] = {}
    for key, value in config.items():
        path = sys.intern(f"{prefix}{key}")
        if path in BESIDE:
            continue
        if isinstance(value, dict):
            found |= flat(value, f"{path}.")
        else:
            found[path] = sys.intern(value if isinstance(value, str) else json.dumps(value))
    return found


def groups(runs: Frame, settings: list[dict[str, str]]) -> list[str]:
    """Name the group of each run: task, model and protocol, and the data if these have several."""
    found = [SEPARATOR.join(names) for names in runs[PLACE].itertuples(index=False)]
    for _, rows in runs.groupby([*PLACE, "stage"]):
        if rows["data"].nunique() > 1:
            places = rows.index.tolist()
            kinds = [
                {k: v for k, v in settings[i].items() if k.startswith(OF_DATA)} for i in places
            ]
            for i, said, own in zip(places, differing(kinds), rows["data"], strict=True):
                found[i] += SEPARATOR + (said or f"data {own}")
    return found


def told_apart(runs: Frame, settings: list[dict[str, str]]) -> list[str]:
    """The settings by which a run differs from others of its name in its group and stage."""
    found = [""] * len(runs)
    for _, group in runs.groupby(["group", "base", "stage"]):
        first = group.index[group["choice"] == 0].tolist()
        for i, said in zip(first, differing([settings[i] for i in first]), strict=True):
            found[i] = said
    return found


def differing(settings: Sequence[dict[str, str]]) -> list[str]:
    """For each of several runs the settings of which not all have its value, by their last names.

    A setting that some of them do not have differs too.
    """
    values: dict[str, set[str | None]] = {}
    for own in settings:
        for key, value in own.items():
            values.setdefault(key, set()).add(value)
    lacking = {key for own in settings for key in values.keys() - own.keys()}
    keys = {key for key, found in values.items() if len(found) > 1} | lacking
    return [
        ", ".join(f"{k.rpartition('.')[2]}={value}" for k, value in own.items() if k in keys)
        for own in settings
    ]


def latest(runs: Frame) -> Frame:
    """Of runs of one method and seed in one group, the one that ended last."""
    ordered = runs.sort_values("finished", kind="stable")
    same = ["group", "method", "choice", "seed"]
    return ordered.drop_duplicates(same, keep="last").sort_index()
