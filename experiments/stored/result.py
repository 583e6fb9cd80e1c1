"""result.json: what a finished run says of itself, by version, and what readers rely on."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from experiments.disk.files import (
    NOT_JSON,
    check_regular,
    hash_file,
    read_object,
    unreadable,
    write_record,
)
from experiments.stored.kinds import KIND, TARGET, with_kinds
from experiments.stored.places import mask_paths
from experiments.stored.roles import keep_named, regroup, with_later
from experiments.stored.typed import fit, fit_record

NAME = "result.json"
LARGEST = 700.0  # loss whose exponential is a number
PREDICTIONS = "predictions.parquet"
# 2 named classes by dotted path, and had no checksum; 3 had all settings of the loop in `train`.
SCHEMA = 4
READ = (2, 3, SCHEMA)
# What fingerprints of old versions may hold.
OLD = {
    2: ("config", "data", "model", "start"),
    3: ("config", "data", "model", "model_files", "start"),
}


class Primary(TypedDict, total=False):
    """The score that runs are compared by; empty if the run diverged."""

    metric: str
    score: float
    interval: tuple[float, float]
    examples: int
    floor: float  # of the baseline; absent from results of earlier versions


class Label(TypedDict):
    """The names that a run is listed under."""

    variant: str
    task: str
    model: str


class Parameters(TypedDict):
    """How many parameters there are."""

    trained: int
    head: int


class Steps(TypedDict):
    """How many steps were taken."""

    steps: int


class Flops(TypedDict):
    """Operations of the training."""

    training: float


class Phases(TypedDict):
    """Something that was measured while training, and perhaps in other phases."""

    train: float


class Peaks(TypedDict):
    """Peak memory, if it was measured."""

    train: float | None


class Cost(TypedDict):
    """The cost of a run."""

    parameters: Parameters
    seconds: Phases
    processor_seconds: NotRequired[Phases]
    peak_mib: Peaks
    memory: NotRequired[str]
    flops: Flops
    steps: Steps
    restarts: NotRequired[int]
    latency: NotRequired[dict[str, float]]
    bytes: NotRequired[dict[str, int]]


class Examples(TypedDict):
    """How many examples there were, and where they are from."""

    trained_on: int
    source: NotRequired[dict[str, str]]
    available: NotRequired[dict[str, int]]


class Forgetting(TypedDict):
    """Mean losses per token of general text, in nats, and over how much of it."""

    texts: int
    tokens: int
    truncated: int
    loss_before: float
    loss_after: float


class Fingerprint(TypedDict):
    """The data, weights and settings that a result depends on."""

    config: NotRequired[dict[str, Any]]
    data: dict[str, str]
    model: str
    model_files: NotRequired[str]
    start: NotRequired[str]
    forgetting: NotRequired[str]


class Tracked(TypedDict):
    """How the run was shown to a tracker."""

    group: str | None
    tags: list[str]


class Config(TypedDict):
    """The settings of a run; a class of the project's own checks the rest of them."""

    variant: dict[str, Any]
    train: dict[str, Any]
    task: dict[str, Any]
    model: dict[str, Any]
    protocol: dict[str, Any]
    tracker: NotRequired[Tracked]
    data: NotRequired[dict[str, Any]]
    start: NotRequired[str | None]
    part_of: NotRequired[list[str] | None]


class Commit(TypedDict):
    """The state of the sources."""

    commit: str
    dirty: bool


class Provenance(TypedDict):
    """Code, packages and machine."""

    finished: str
    git: Commit | None
    code: str
    packages: dict[str, str]
    python: str
    system: str
    device: str
    threads: int
    float32_products: str
    processes: int
    engine: NotRequired[str]
    earlier_code: NotRequired[list[str]]
    method_code: NotRequired[str]


class Stored(TypedDict):
    """The whole file."""

    schema: int
    status: Literal["complete", "diverged"]
    label: Label
    seed: int
    primary: Primary
    scores: dict[str, dict[str, float]]
    cost: Cost
    telemetry: dict[str, float]
    examples: Examples
    fingerprint: Fingerprint
    config: Config
    choices: NotRequired[dict[str, str | None]]
    overrides: NotRequired[list[str]]
    paper: str | None
    provenance: Provenance
    failure: NotRequired[str | None]
    epochs: NotRequired[list[dict[str, Any]]]
    files: NotRequired[dict[str, str]]
    forgetting: NotRequired[Forgetting | None]


def read(path: Path) -> dict[str, Any]:
    """The content of a result.json of any version that is read, in the terms of the latest.

    Raises ValueError naming the file and the key of what is wrong.
    """
    content = read_object(path, NOT_JSON)
    version = content.get("schema")
    if version not in READ or isinstance(version, bool | float):
        readable = ", ".join(map(str, READ))
        raise ValueError(f"{path} has schema {version!r:.40}, and this version reads {readable}.")
    found = fit_record(path, content, Stored, check_score)
    return {key: value for key, value in upgrade(found).items() if key in KEYS}


MIXED = "its checksum is not the one in the result"
KEYS = Stored.__annotations__.keys()
ABSENT: dict[str, Any] = {
    "choices": {},
    "overrides": [],
    "failure": None,
    "epochs": [],
    "files": {},
    "forgetting": None,
}


def perplexities(forgetting: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """The perplexity of general text before and after training, where it was measured."""
    if forgetting is None:
        return None
    before, after = (min(forgetting[key], LARGEST) for key in ("loss_before", "loss_after"))
    return math.exp(before), math.exp(after)


def effective_rate(config: Mapping[str, Any]) -> float | None:
    """The learning rate that the optimizer runs at: `variant.lr` times the model's `lr_scale`."""
    rate, scale = config["variant"].get("lr"), config["model"].get("lr_scale") or 1.0
    known = isinstance(rate, int | float) and not isinstance(rate, bool)
    return float(f"{rate * scale:.10g}") if known else None


def check_score(content: dict[str, Any]) -> None:
    """Raise ValueError unless a run has seconds of phases, and a score if it came to its end."""
    if content["status"] == "complete":
        for key in ("metric", "score", "interval"):
            if key not in content["primary"]:
                raise ValueError(f"primary.{key} is missing.")
        metric = content["primary"]["metric"]
        if not any(metric in scores for scores in content["scores"].values()):
            raise ValueError(f"primary.metric is {metric!r:.40}, and scores has none of that name.")
        for key in ("latency", "bytes"):
            if key not in content["cost"]:
                raise ValueError(f"cost.{key} is missing.")
    for name in ("seconds", "processor_seconds"):
        fit(content["cost"].get(name, {}), dict[str, float], f"cost.{name}")
    protocol = content["config"]["protocol"]
    if not isinstance(protocol.get(KIND, protocol.get(TARGET)), str):
        raise ValueError(f"config.protocol.{KIND} is missing, or no text.")


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """A result in the terms of the latest version: kinds for dotted paths, settings regrouped."""
    if content["schema"] == SCHEMA:
        return {**ABSENT, **content, "config": with_later(content["config"])}
    return {**ABSENT, **content} | {
        "config": with_later(upgrade_config(content["config"])),
        "fingerprint": upgrade_fingerprint(content["fingerprint"]),
    }


def upgrade_fingerprint(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint of any version in the terms of the latest."""
    return fingerprint | {"config": keep_named(upgrade_config(fingerprint.get("config", {})))}


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run of an old version in the terms of the latest."""
    found = regroup(with_kinds(config))
    for section in ("compute", "record"):
        if section in found:
            found[section] = {KIND: section, **found[section]}
    return found


def write(folder: Path, content: dict[str, Any]) -> None:
    """Write a result of the latest version."""
    write_record(folder / NAME, content)


def differing(stored: dict[str, Any], schema: int, now: dict[str, Any]) -> list[str]:
    """In what two fingerprints differ, over the keys that the version of the stored one knew."""
    known = [key for key in now if key in stored or schema == SCHEMA or key in OLD[schema]]
    return [key for key in known if mask_paths(stored.get(key)) != mask_paths(now[key])]


def read_predictions(path: Path, sha256: str | None = None, without: Sequence[str] = ()) -> Any:
    """A run's predictions as a data frame, a row for each evaluated example.

    Columns that are not wanted are left out. Raises ValueError naming the file if it is absent,
    damaged, or not the one with this hash.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    check_regular(path)
    try:
        if sha256 is not None and hash_file(path) != sha256:
            raise ValueError(MIXED)
        # What pandas notes of a table beside it is of no use here, and one more thing to break.
        file = ParquetFile(path)
        columns = [name for name in file.schema_arrow.names if name not in without]
        frame = file.read(columns, use_threads=False).to_pandas(ignore_metadata=True)
        for column in ("split", "id"):
            if column not in frame:
                raise ValueError(f"it has no column '{column}'")
    except (OSError, ValueError, ArrowException) as error:
        raise unreadable(path, " ".join(str(error).split())) from None
    return frame


def check_predictions(run: dict[str, Any]) -> None:
    """Raise ValueError naming the predictions of a run, with its folder, if they are damaged."""
    path = Path(run["folder"]) / PREDICTIONS
    if not path.exists():
        raise ValueError(f"{path} is absent, and a run is compared by its predictions.")
    sha256 = run["files"].get(PREDICTIONS)
    if sha256 is None:  # of a version that kept none
        read_predictions(path)
        return
    check_regular(path)
    if hash_file(path) != sha256:
        raise unreadable(path, MIXED)
