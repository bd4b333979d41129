"""The study stage: ``python -m emm.study`` pools a study's arms and writes its tables."""

import argparse
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emm import checksums, findings, onset
from emm.contrasts import Contrast, compare, confirmed
from emm.files import write_csv, write_text
from emm.measure import best_counts, counts_of, trail_of
from emm.search import Count, RunId, Trail
from emm.settings import Finding, Search, Study, lookup
from emm.stage import StageError, command
from emm.statistics import Estimate, Line, RunVariance, estimate, fit_line, pooled_variance
from emm.tables import EMM_COLUMNS, page

CURVE_COLUMNS = (
    "study", "arm", "value", "n", "replicate", "role", "progress", "images_seen", "memorized", "images", "ratio",
    "ratio_low", "ratio_high", "mean_distance",
)  # fmt: skip
CONTRAST_COLUMNS = ("study", "arm", "baseline", "emm_ratio", "ratio_low", "ratio_high", "paired", "note")


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
        "findings": [[name, finding.model_dump()] for name, finding in study.findings.items()],  # in order
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
    """Scatter of runs pooled over the arms that have confirming runs; arms on the very same runs count once."""
    lines: dict[tuple[tuple[RunId, Count], ...], Line] = {}
    for arm, counts in zip(arms, counts_by_arm, strict=True):
        line = fit_line([run.n for run in arm.trail.confirm], [counts[run] for run in arm.trail.confirm])
        if line is not None:
            lines[tuple((run, counts[run]) for run in arm.trail.confirm)] = line
    return pooled_variance(list(lines.values()))


def estimates(arms: Sequence[ArmResult], chosen: Sequence[Mapping[RunId, Count]]) -> list[Estimate]:
    """The estimate of each arm from the chosen counts, with the run variance pooled over the study."""
    variance = pooled(arms, chosen)
    return [arm.estimate(counts, variance) for arm, counts in zip(arms, chosen, strict=True)]


def emm_rows(study: Mapping[str, Any], arms: Sequence[ArmResult], found_of: Sequence[Estimate]) -> list[dict[str, Any]]:
    """One row an arm: its estimate, that under the paper's choice of snapshots, and what it cost."""
    best_of = estimates(arms, [best_counts(arm.record) for arm in arms])
    rows = []
    for arm, found, best in zip(arms, found_of, best_of, strict=True):
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
                "emm_best_snapshot": best.emm,
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


def contrasts(arms: Sequence[ArmResult], found_of: Sequence[Estimate]) -> dict[tuple[str, str], Contrast]:
    """Ratio of EMMs of every ordered pair of arms, by their names."""
    known = []
    for arm, found in zip(arms, found_of, strict=True):
        known.append((found, confirmed(arm.trail, counts_of(arm.record), found)))
    study = [runs for _, runs in known]
    return {
        (arms[i].name, arms[j].name): compare(known[i], known[j], study)
        for i, j in itertools.permutations(range(len(arms)), 2)
    }


def contrast_rows(
    study: Mapping[str, Any], arms: Sequence[ArmResult], ratios: Mapping[tuple[str, str], Contrast]
) -> list[dict[str, Any]]:
    """Every arm against the first: ratio of EMMs with its interval, or what the limits of the two leave of it."""
    result = []
    for arm in arms[1:]:
        found = ratios[arm.name, arms[0].name]
        result.append(
            {
                "study": study["name"],
                "arm": arm.name,
                "baseline": arms[0].name,
                "emm_ratio": found.ratio,
                "ratio_low": found.low or None,
                "ratio_high": found.high if found.high < math.inf else None,
                "paired": found.paired,
                "note": "" if found.ratio is not None else "At least one of the two has no estimate with an interval.",
            }
        )
    return result


def finding_rows(
    study: Mapping[str, Any], arms: Sequence[ArmResult], ratios: Mapping[tuple[str, str], Contrast]
) -> list[dict[str, Any]]:
    """The study's claims, judged."""
    claims = {name: Finding.model_validate(content) for name, content in study["findings"]}
    by_name = {arm.name: arm for arm in arms}
    judged = []
    for claim in claims.values():
        first = by_name[claim.arms[0]]
        runs = onset.rows("", "", first.record["runs"])
        growth = onset.growth([row["n"] for row in runs], [row["onset_images"] for row in runs])
        judged.append(findings.judge(claim, ratios, len(first.trail.confirm), growth))
    # Where a claim names no source of its own, it is that of the study's figure.
    return [row | {"source": row["source"] or study["source"]} for row in findings.rows(study["name"], claims, judged)]


def read_arms(study: Mapping[str, Any], records: Sequence[Path]) -> list[ArmResult]:
    """The arms of a study with their records, in the order of the configuration."""
    if len(records) != len(study["arms"]):
        raise StageError(f"--records: {len(records)} files for the {len(study['arms'])} arms of study {study['name']}")
    arms = []
    for arm, path in zip(study["arms"], records, strict=True):
        record = checksums.read_json(path)
        arms.append(
            ArmResult(arm["name"], arm["value"], Search.model_validate(arm["search"]), record, trail_of(record))
        )
    return arms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--study", required=True, help="description of the study as JSON")
    parser.add_argument("--records", type=Path, nargs="+", required=True, help="emm.json of every arm, in order")
    for option in ("--emm", "--curves", "--contrasts", "--findings", "--onset", "--page"):
        parser.add_argument(option, type=Path, required=True)
    args = parser.parse_args()
    study = json.loads(args.study)
    arms = read_arms(study, args.records)
    found = estimates(arms, [counts_of(arm.record) for arm in arms])
    rows = emm_rows(study, arms, found)
    ratios = contrasts(arms, found)
    write_csv(args.emm, EMM_COLUMNS, rows)
    write_csv(args.curves, CURVE_COLUMNS, curve_rows(study, arms))
    write_csv(args.contrasts, CONTRAST_COLUMNS, contrast_rows(study, arms, ratios))
    write_csv(args.findings, findings.COLUMNS, finding_rows(study, arms, ratios))
    write_csv(
        args.onset, onset.COLUMNS, [r for arm in arms for r in onset.rows(study["name"], arm.name, arm.record["runs"])]
    )
    write_text(args.page, page(f"EMM: {study['title']}", rows))


if __name__ == "__main__":
    command(main)
