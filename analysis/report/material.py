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

from analysis.load import place, readable, row, runs_folder, study_in, study_of
from experiments.stored import result, summary
from experiments.stored.kinds import KIND
from experiments.stored.roles import is_compared
from experiments.stored.shown import visible

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

    title: str
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
    settings = flatten(found)
    runs["group"] = groups(runs, settings)
    runs["settings"] = told_apart(runs, settings)
    runs["method"] = runs["base"] + runs["settings"].map(lambda text: f" [{text}]" if text else "")
    return Material(
        title=title_of(folders),
        folder=Path(commonpath([runs_folder(Path(folder)) for folder in folders])),
        runs=runs,
        results=found,
        studies=studies,
        left_out=left_out,
    )


def title_of(folders: Sequence[str | Path]) -> str:
    """The name of the study, or of the folder that all of the runs lie in."""
    known = [study_in(Path(folder)) for folder in folders]
    if len(known) == 1 and known[0] is not None:
        return known[0]
    return Path(commonpath(folders)).resolve().name


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
    if own is None and group is not None and result["seed"] >= summary.TUNING_SEED:
        return SELECT
    return own or TEST


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
    """Return whether a study reports each run in the setting that came second (1), or not (0)."""
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


def flatten(results: Iterable[Record]) -> list[dict[str, str]]:
    """The settings of each run; sections that runs share in memory are looked at once."""
    known: dict[tuple[str, int], dict[str, str]] = {}
    found = []
    for run in results:
        own: dict[str, str] = {}
        for key, value in run["config"].items():
            place = (key, id(value))
            if place not in known:
                known[place] = flat({key: value})
            own |= known[place]
        found.append(own)
    return found


def flat(config: Record, prefix: str = "") -> dict[str, str]:
    """Settings by dotted name as text, without those that only say where and which repetition.

    Equal texts of many runs are one in memory.
    """
    found: dict[str, str] = {}
    for key, value in config.items():
        path = sys.intern(f"{prefix}{key}")
        if not is_compared(path) or path == "protocol.stage":  # the stage has a column of its own
            continue
        if isinstance(value, dict):
            found |= flat(value, f"{path}.")
        else:
            found[path] = sys.intern(value if isinstance(value, str) else json.dumps(value))
    return found


def shared_settings(settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The settings that all runs have with the same value."""
    first, *others = settings
    pairs = set(first.items())
    for own in others:
        pairs &= own.items()
    return dict(pairs)


def telling_settings(results: Sequence[Record], settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The settings that differ between runs, and not only as their tasks, models or methods do."""
    common = shared_settings(settings)
    names = dict.fromkeys(name for own in settings for name in own if name not in common)
    found = []
    for name in names:
        labels = [label_of(run, name) for run in results]
        pairs = {(own.get(name), label) for own, label in zip(settings, labels, strict=True)}
        if None in labels or len(pairs) > len(set(labels)):
            found.append(name)
    return found


def label_of(run: Record, name: str) -> str | None:
    """The name of the task, model or method that a setting may follow from, if any."""
    section = name.partition(".")[0]
    if section == "variant" and name != f"variant.{KIND}":
        return None
    return run["label"].get(section)


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
