"""The study stage: ``python -m emm.study`` pools a study's arms and writes its tables."""

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emm.files import write_csv, write_text
from emm.measure import best_counts, counts_of, trail_of
from emm.search import Count, RunId, Trail
from emm.settings import Search, Study, lookup
from emm.stage import StageError, command
from emm.statistics import Estimate, RunVariance, contrast, estimate, fit_line, pooled_variance
from emm.tables import page

EMM_COLUMNS = (
    "study", "arm", "factor", "value",
    "emm", "emm_low", "emm_high", "status", "rule", "epsilon", "threshold", "snapshot",
    "emm_isotonic", "emm_interpolated", "emm_best_snapshot", "slope", "run_sd", "df",
    "runs", "confirm_runs", "images_trained", "flops", "seconds", "note",
)  # fmt: skip
CURVE_COLUMNS = (
    "study", "arm", "value", "n", "replicate", "role", "progress", "images_seen", "memorized", "images", "ratio",
    "ratio_low", "ratio_high", "mean_distance",
)  # fmt: skip
CONTRAST_COLUMNS = ("study", "arm", "baseline", "emm_ratio", "ratio_low", "ratio_high", "note")


def description(study: Study) -> dict[str, Any]:
    """What the stage must know of a study beside its arms' records; a plain mapping for its command line."""
    return {
        "name": study.name,
        "title": study.title,
        "source": study.source,
        "factor": study.factor,
        "arms": [
            {
                "name": arm.name,
                "value": str(lookup(arm.run, study.factor)) if study.factor else "",
                "search": arm.run.search.model_dump(),
            }
            for arm in study.arms
        ],
    }


@dataclass(frozen=True)
class ArmResult:
    """An arm with its record and its finished search."""

    name: str
    value: str
    search: Search
    record: Mapping[str, Any]
    trail: Trail

    def estimate(self, counts: Mapping[RunId, Count], variance: RunVariance | None) -> Estimate:
        return estimate(self.search, self.trail, counts, self.record["sizes"], variance)


def pooled(arms: Iterable[ArmResult], counts_by_arm: Iterable[Mapping[RunId, Count]]) -> RunVariance | None:
    """Scatter of runs pooled over the arms that have confirming runs."""
    lines = []
    for arm, counts in zip(arms, counts_by_arm, strict=True):
        line = fit_line([run.n for run in arm.trail.confirm], [counts[run] for run in arm.trail.confirm])
        if line is not None:
            lines.append(line)
    return pooled_variance(lines)


def emm_rows(study: Mapping[str, Any], arms: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """One row an arm: the estimate with the study's pooled run variance, and what it cost."""
    chosen = [counts_of(arm.record) for arm in arms]
    best = [best_counts(arm.record) for arm in arms]
    variance, best_variance = pooled(arms, chosen), pooled(arms, best)
    rows = []
    for arm, counts, best_of in zip(arms, chosen, best, strict=True):
        found = arm.estimate(counts, variance)
        rows.append(
            {
                "study": study["name"],
                "arm": arm.name,
                "factor": study["factor"],
                "value": arm.value,
                "emm": found.emm,
                "emm_low": found.low,
                "emm_high": found.high,
                "status": found.status,
                "rule": arm.search.rule,
                "epsilon": arm.search.epsilon,
                "threshold": arm.record["threshold"],
                "snapshot": arm.record["snapshot"],
                "emm_isotonic": found.isotonic,
                "emm_interpolated": found.interpolated,
                "emm_best_snapshot": arm.estimate(best_of, best_variance).emm,
                "slope": found.slope,
                "run_sd": found.run_sd,
                "df": found.df,
                "runs": len(arm.record["runs"]),
                "confirm_runs": len(arm.trail.confirm),
                "images_trained": arm.record["images_trained"],
                "flops": arm.record["flops"],
                "seconds": arm.record["run_seconds"],
                "note": found.note,
            }
        )
    return rows


def curve_rows(study: Mapping[str, Any], arms: Sequence[ArmResult]) -> list[dict[str, Any]]:
    """One row for every snapshot of every run."""
    return [
        {"study": study["name"], "arm": arm.name, "value": arm.value}
        | {name: run[name] for name in ("n", "replicate", "role")}
        | snapshot
        for arm in arms
        for run in arm.record["runs"]
        for snapshot in run["snapshots"]
    ]


def contrast_rows(study: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every arm against the first: ratio of EMMs with its interval, where both have one."""
    result = []
    baseline = rows[0]
    for row in rows[1:]:
        ratio = low = high = None
        note = ""
        if all(isinstance(r[c], float) for r in (row, baseline) for c in ("emm", "emm_low", "emm_high")):
            ratio, low, high = contrast(*((r["emm"], r["emm_low"], r["emm_high"]) for r in (row, baseline)))
        else:
            note = "At least one of the two has no estimate with an interval."
        result.append(
            {
                "study": study["name"],
                "arm": row["arm"],
                "baseline": baseline["arm"],
                "emm_ratio": ratio,
                "ratio_low": low,
                "ratio_high": high,
                "note": note,
            }
        )
    return result


def read_arms(study: Mapping[str, Any], records: Sequence[Path]) -> list[ArmResult]:
    """The arms of a study with their records, in the order of the configuration."""
    if len(records) != len(study["arms"]):
        raise StageError(f"--records: {len(records)} files for the {len(study['arms'])} arms of study {study['name']}")
    arms = []
    for arm, path in zip(study["arms"], records, strict=True):
        record = json.loads(path.read_text())
        arms.append(
            ArmResult(arm["name"], arm["value"], Search.model_validate(arm["search"]), record, trail_of(record))
        )
    return arms


def answer(row: Mapping[str, Any]) -> tuple[str, str]:
    """EMM and its interval as a reader wants them: ("27", "24 to 31"), (">= 640", ""), ("not determined", "")."""

    def number(value: float | str) -> str:
        value = float(value)
        return f"{value:.0f}" if value >= 10 else f"{value:.1f}"

    status = row["status"]
    if status == "at_least":
        return f"≥ {number(row['emm_low'])}", ""
    if status == "below":
        return f"< {number(row['emm_high'])}", ""
    if status == "undetermined":
        return "not determined", ""
    interval = [row[c] for c in ("emm_low", "emm_high")]
    if any(v in (None, "") or (isinstance(v, float) and math.isnan(v)) for v in interval):
        return number(row["emm"]), "none"
    return number(row["emm"]), f"{number(interval[0])} to {number(interval[1])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True, help="description of the study as JSON")
    parser.add_argument("--records", type=Path, nargs="+", required=True, help="emm.json of every arm, in order")
    for option in ("--emm", "--curves", "--contrasts", "--page"):
        parser.add_argument(option, type=Path, required=True)
    args = parser.parse_args()
    study = json.loads(args.study)
    arms = read_arms(study, args.records)
    rows = emm_rows(study, arms)
    write_csv(args.emm, EMM_COLUMNS, rows)
    write_csv(args.curves, CURVE_COLUMNS, curve_rows(study, arms))
    write_csv(args.contrasts, CONTRAST_COLUMNS, contrast_rows(study, rows))
    write_text(args.page, page(f"EMM: {study['title']}", rows, answer))


if __name__ == "__main__":
    command(main)
