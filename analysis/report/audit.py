"""Whether methods were treated alike: as their study says, else by what their runs say."""

from collections import Counter
from dataclasses import dataclass

from analysis.report.comparisons import Comparison
from analysis.report.material import Frame, Material, flat
from analysis.report.tuning import rows

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
    known = {str(method): facts(material, group) for method, group in one.runs.groupby("method")}
    return Audit(title=one.group, source="the compared runs alone", remarks=odd(known), lost=[])


def facts(material: Material, runs: Frame) -> dict[str, str]:
    """What should be the same for every method; several values are joined."""
    found: dict[str, list[str]] = {}
    for i in runs.index:
        result = material.results[i]
        own = {k: v for k, v in flat(result["config"]).items() if k.startswith(SHARED)}
        own["parameters of the head"] = str(result["cost"]["parameters"]["head"])
        own["examples trained on"] = str(result["examples"]["trained_on"])
        own |= {key: str(runs.loc[i, key]) for key in MACHINE}
        for key, value in own.items():
            if value not in found.setdefault(key, []):
                found[key].append(value)
    return {key: " and ".join(values) for key, values in found.items()}


def odd(known: dict[str, dict[str, str]]) -> list[str]:
    """Which method differs in what from most of the others."""
    said = []
    for key in dict.fromkeys(key for own in known.values() for key in own):
        having = {method: own[key] for method, own in known.items() if key in own}
        usual, _ = Counter(having.values()).most_common(1)[0]
        for method, value in having.items():
            if value != usual:
                said.append(f"{method}: {key} {value} (others {usual})")
            elif " and " in value:
                said.append(f"{method}: its runs differ in {key}: {value}")
    return said
