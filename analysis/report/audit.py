"""Whether methods were treated alike: as their study says, else by what their runs say."""

from dataclasses import dataclass

from analysis.report.comparisons import Comparison
from analysis.report.material import Frame, Material, flat
from analysis.report.tuning import rows
from experiments.study.audit import joined, remarks

# Settings that every method of a comparison should share.
SHARED = ("train.", "task.", "model.", "protocol.", "data.", "start")
MACHINE = ("device", "threads", "torch", "code")


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What there is to remark on one comparison, and who looked."""

    title: str
    source: str
    remarks: list[str]
    lost: list[str]


def audits(material: Material, found: list[Comparison]) -> list[Audit]:
    """Every study's own audit, and one of the runs where runs of no study are compared."""
    studies = {study["study"] for study in material.studies}
    own = [one for one in found if one.verdicts and not set(study_of(material, one)) <= studies]
    return [*of_studies(material), *(of_runs(material, one) for one in own)]


def study_of(material: Material, one: Comparison) -> list[str | None]:
    """The studies that the compared runs belong to; None for runs of no study."""
    trackers = [material.results[i]["config"].get("tracker") or {} for i in one.runs.index]
    return [tracker.get("group") for tracker in trackers]


def of_studies(material: Material) -> list[Audit]:
    """What studies remarked, by protocol and task."""
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows(material):
        groups.setdefault((row["study"], row["task"], row["protocol"]), []).append(row)
    return [
        Audit(
            title=f"{task} · {protocol}",
            source=f"study {study}, tuning included",
            remarks=[f"{row['method']}: {said}" for row in group for said in row["remarks"]],
            lost=[f"{row['method']}: {said}" for row in group for said in row["lost"]],
        )
        for (study, task, protocol), group in groups.items()
    ]


def of_runs(material: Material, one: Comparison) -> Audit:
    """In what the compared runs differ beside their method."""
    known = {
        str(method): joined(facts(material, runs, i) for i in runs.index)
        for method, runs in one.runs.groupby("method")
    }
    said = [f"{method}: {text}" for method, texts in remarks(known).items() for text in texts]
    return Audit(title=one.group, source="the compared runs alone", remarks=said, lost=[])


def facts(material: Material, runs: Frame, i: int) -> dict[str, str]:
    """What should be the same for every method, of one run."""
    result = material.results[i]
    own = {key: text for key, text in flat(result["config"]).items() if key.startswith(SHARED)}
    own["parameters of the head"] = str(result["cost"]["parameters"]["head"])
    own["examples trained on"] = str(result["examples"]["trained_on"])
    return own | {key: str(runs.loc[i, key]) for key in MACHINE}
