"""The study stage estimates and compares a study's arms, and writes its tables."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emmeter.command import command
from emmeter.errors import StageError
from emmeter.files import tables
from emmeter.files.records import EmmRecord, read
from emmeter.files.tables import CONTRAST_COLUMNS, CURVE_COLUMNS, EMM_COLUMNS
from emmeter.files.writing import write_csv, write_text
from emmeter.measure import onset
from emmeter.measure.arms import ArmResult, best_counts, comparison, counts_of, epochs, prior_of, trail_of, wanting
from emmeter.measure.claims import CONFIDENCE, Judgement, judge, worded
from emmeter.measure.results import SearchedRun
from emmeter.measure.scatter import Prior
from emmeter.presentation.tables import images_and_budget, page
from emmeter.settings.sections import Search
from emmeter.settings.studies import Finding


def emm_rows(study: Mapping[str, Any], arms: Sequence[ArmResult], prior: Prior | None) -> list[dict[str, Any]]:
    """One row per arm: its estimate, that under the paper's choice of snapshots, and what it cost."""
    rows = []
    for arm in arms:
        found = arm.estimate(counts_of(arm.record), prior)
        at = found.emm or found.low or found.high
        rows.append(
            {
                "study": study["name"],
                "arm": arm.name,
                "factor": study["factor"],
                "value": arm.about["value"],
                "emm": found.emm,
                "emm_low": found.low,
                "emm_high": found.high,
                "status": found.status,
                "data": arm.about["data"],
                "resolution": arm.about["resolution"],
                "budget": arm.about["budget"],
                "epochs": epochs(arm.about["budget"], at),
                "rule": arm.search.rule,
                "epsilon": arm.search.epsilon,
                "threshold": arm.record["threshold"],
                "snapshot": arm.record["snapshot"],
                "emm_isotonic": found.isotonic,
                "emm_interpolated": found.interpolated,
                "emm_best_snapshot": arm.estimate(best_counts(arm.record), prior).emm,
                "slope": found.slope,
                "run_sd": found.run_sd,
                "df": found.df,
                "prior_sd": None if prior is None else math.sqrt(prior.variance),
                "prior_df": None if prior is None else prior.df,
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
    """One row per snapshot of every run."""
    return [
        {"study": study["name"], "arm": arm.name, "value": arm.about["value"]}
        | {name: run[name] for name in ("n", "replicate", "role")}
        | snapshot
        for arm in arms
        for run in arm.record["runs"]
        for snapshot in run["snapshots"]
    ]


def contrast_rows(study: Mapping[str, Any], arms: Sequence[ArmResult], prior: Prior | None) -> list[dict[str, Any]]:
    """Every arm against the first: ratio of EMMs with its interval, or what the limits of the two leave of it."""
    result = []
    ratios = comparison(arms, prior)
    for arm in arms[1:]:
        found = ratios(arm.name, arms[0].name, CONFIDENCE)
        result.append(
            {
                "study": study["name"],
                "arm": arm.name,
                "baseline": arms[0].name,
                "setting": "; ".join(dict.fromkeys(images_and_budget(one.about) for one in (arm, arms[0]))),
                "emm_ratio": found.ratio,
                "ratio_low": found.low or None,
                "ratio_high": found.high if found.high < math.inf else None,
                "paired": found.paired,
                "note": "" if found.ratio is not None else "At least one of the two has no estimate with an interval.",
            }
        )
    return result


def finding_rows(study: Mapping[str, Any], arms: Sequence[ArmResult], prior: Prior | None) -> list[dict[str, Any]]:
    """The study's claims, judged."""
    claims = {name: Finding.model_validate(content) for name, content in study["findings"]}
    # Where a claim names no source of its own, it is that of the study's figure.
    claims = {n: claim.model_copy(update={"source": claim.source or study["source"]}) for n, claim in claims.items()}
    by_name = {arm.name: arm for arm in arms}
    wanted = {arm.name: wanting(arm, arm.estimate(counts_of(arm.record), prior)) for arm in arms}
    judged = []
    for claim in claims.values():
        first = by_name[claim.arms[0]]
        runs = onset_rows("", "", first.record["runs"])
        growth = onset.growth([row["n"] for row in runs], [row["onset_images"] for row in runs])
        of_claim = [run for run in first.trail.runs if run.n == claim.at] if claim.at else first.trail.confirm
        missing = {} if claim.at else {name: text for name, text in wanted.items() if text}
        judged.append(judge(claim, comparison(arms, prior, claim.at), len(of_claim), growth, missing))
    known = {arm.name: (arm.about["key"], images_and_budget(arm.about)) for arm in arms}
    return claim_rows(study["name"], claims, judged, known, study["as_published"])


def read_arms(study: Mapping[str, Any], records: Sequence[Path]) -> list[ArmResult]:
    """The arms of a study with their records, in the order of the configuration."""
    if len(records) != len(study["arms"]):
        raise StageError(f"--records: {len(records)} files for the {len(study['arms'])} arms of study {study['name']}")
    arms = []
    for arm, path in zip(study["arms"], records, strict=True):
        record = read(path, EmmRecord)
        arms.append(ArmResult(arm["name"], arm, Search.model_validate(arm["search"]), record, trail_of(record)))
    return arms


def read_prior(text: str) -> Prior | None:
    """The prior of `Index.prior` from a command line: a mapping as JSON, or null."""
    fields = json.loads(text)
    return None if fields is None else Prior(**fields)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--study", required=True, help="description of the study as JSON")
    parser.add_argument("--records", type=Path, nargs="+", required=True, help="emm.json of every arm, in order")
    parser.add_argument("--prior", default="null", help="scatter of the runs of all finished arms as JSON")
    for option in ("--emm", "--curves", "--contrasts", "--findings", "--onset", "--page"):
        parser.add_argument(option, type=Path, required=True)
    args = parser.parse_args(argv)
    study = json.loads(args.study)
    arms = read_arms(study, args.records)
    prior = read_prior(args.prior) or prior_of(arms)
    rows = emm_rows(study, arms, prior)
    write_csv(args.emm, EMM_COLUMNS, rows)
    write_csv(args.curves, CURVE_COLUMNS, curve_rows(study, arms))
    write_csv(args.contrasts, CONTRAST_COLUMNS, contrast_rows(study, arms, prior))
    write_csv(args.findings, tables.FINDING_COLUMNS, finding_rows(study, arms, prior))
    write_csv(
        args.onset,
        tables.ONSET_COLUMNS,
        [r for arm in arms for r in onset_rows(study["name"], arm.name, arm.record["runs"])],
    )
    write_text(args.page, page(f"EMM: {study['title']}", rows))


def onset_rows(study: str, arm: str, runs: Sequence[SearchedRun]) -> list[dict[str, Any]]:
    """One row a run of an arm's record: rows of onset.csv."""
    result = []
    for run in runs:
        images, note = onset.onset(run["snapshots"])
        epochs = None if images is None else images / run["n"]
        place = {"study": study, "arm": arm, "n": run["n"], "replicate": run["replicate"], "level": onset.LEVEL}
        result.append(place | {"onset_images": images, "onset_epochs": epochs, "note": note})
    return result


def claim_rows(
    study: str,
    claims: Mapping[str, Finding],
    judged: Sequence[Judgement],
    arms: Mapping[str, tuple[str, str]],
    as_published: bool,
) -> list[dict[str, object]]:
    """Rows of findings.csv; empty cells where there is no bound.

    Args:
        arms: of each arm the key of its scores, the same for arms that share their runs, and its images and budget.
        as_published: whether budget and images are those of the published studies.
    """
    return [
        {
            "study": study,
            "finding": name,
            "claim": claim.claim,
            "source": claim.source,
            "expect": claim.expect,
            "margin": claim.margin if claim.expect in ("same", "proportional") else None,
            "at": claim.at,
            "arms": " ".join(claim.arms),
            "verdict": worded(one.verdict, claim.source, as_published),
            "effect": one.effect,
            "effect_low": one.low or None,
            "effect_high": one.high if one.high < math.inf else None,
            "paired": one.paired,
            "further_runs": one.further,
            "note": one.note,
            "setting": "; ".join(dict.fromkeys(arms[arm][1] for arm in claim.arms)),
            "arm_keys": " ".join(arms[arm][0] for arm in claim.arms),
        }
        for (name, claim), one in zip(claims.items(), judged, strict=True)
    ]


if __name__ == "__main__":
    command(main)
