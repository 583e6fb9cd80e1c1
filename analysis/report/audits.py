"""The audit of a comparison: its study's, or one of what its runs say."""

from dataclasses import dataclass

from analysis.load import study_of
from analysis.report.comparisons import Comparison
from analysis.report.material import Material
from analysis.report.tuning import rows
from experiments.study.audit import facts, remarks, unequal

PARAMETERS = 2.0  # the ratio of trained parameters that is remarked upon, as in a study


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The remarks on one comparison, and who made them."""

    title: str
    source: str
    remarks: list[str]
    lost: list[str]


def audits(material: Material, found: list[Comparison]) -> list[Audit]:
    """Every study's own audit, and one of the runs where they are not all of one study."""
    known = {study["study"] for study in material.studies}
    own = [
        one
        for one in found
        if one.verdicts and (len(studies(material, one)) > 1 or not studies(material, one) <= known)
    ]
    return [*of_studies(material), *(of_runs(material, one) for one in own)]


def studies(material: Material, one: Comparison) -> set[str | None]:
    """The studies that the compared runs belong to; None for runs of no study."""
    return {study_of(material.results[i]) for i in one.runs.index}


def of_studies(material: Material) -> list[Audit]:
    """Return the remarks of studies, by protocol and task."""
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
    runs = {str(method): group for method, group in one.runs.groupby("method")}
    known = {
        method: facts(material.results[i] for i in group.index) for method, group in runs.items()
    }
    sizes = {method: int(group["trained"].iloc[0]) for method, group in runs.items()}
    differing, unlike = remarks(known), unequal(sizes, PARAMETERS)
    return Audit(
        title=one.group,
        source="the compared runs alone; how their settings were found is not known",
        remarks=[f"{m}: {text}" for m in runs for text in (*differing[m], *unlike[m])],
        lost=one.left_out,
    )
