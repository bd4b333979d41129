"""The rows of a study's tables, from the finished searches of its arms.

`study` is the description of a study, as `emmeter.pipeline.description` makes it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from emmeter.measure import onset
from emmeter.measure.advice import advice
from emmeter.measure.arms import ArmResult
from emmeter.measure.claims import CONFIDENCE, Judgement, judge, judge_growth, worded
from emmeter.measure.comparison import compare_emms, compare_odds
from emmeter.measure.scatter import Prior
from emmeter.presentation.tables import images_and_budget
from emmeter.settings.studies import Finding
from emmeter.settings.types import Span

Row = dict[str, Any]


def epochs(budget: str, n: float | None) -> float | None:
    """Passes over `n` training images within a budget such as "16000 images"; None if one of the two is missing."""
    if not budget or n is None:
        return None
    return Span.parse(budget).images(1) / (n if Span.parse(budget).unit == "images" else 1)


def emm_rows(study: Mapping[str, Any], arms: Sequence[ArmResult], prior: Prior | None) -> list[Row]:
    """Rows of emm.csv, one per arm: its estimate, that under the paper's choice of snapshots, and its cost."""
    rows = []
    for arm in arms:
        estimate = arm.estimate(prior)
        rows.append(
            {
                "study": study["name"],
                "arm": arm.name,
                "factor": study["factor"],
                "value": arm.about["value"],
                "emm": estimate.emm,
                "emm_low": estimate.low,
                "emm_high": estimate.high,
                "status": estimate.status,
                "data": arm.about["data"],
                "resolution": arm.about["resolution"],
                "budget": arm.about["budget"],
                "epochs": epochs(arm.about["budget"], estimate.emm or estimate.low or estimate.high),
                "rule": arm.search.rule,
                "epsilon": arm.search.epsilon,
                "threshold": arm.record["threshold"],
                "snapshot": arm.record["snapshot"],
                "emm_isotonic": estimate.isotonic,
                "emm_interpolated": estimate.interpolated,
                "emm_best_snapshot": arm.estimate(prior, arm.best_counts).emm,
                "slope": estimate.slope,
                "run_sd": estimate.run_sd,
                "df": estimate.df,
                "prior_sd": None if prior is None else math.sqrt(prior.variance),
                "prior_df": None if prior is None else prior.df,
                "runs": len(arm.record["runs"]),
                "confirm_runs": len(arm.trail.confirm),
                "images_trained": arm.record["images_trained"],
                "flops": arm.record["flops"],
                "seconds": arm.record["run_seconds"],
                "note": estimate.note,
            }
        )
    return rows


def curve_rows(study: Mapping[str, Any], arms: Sequence[ArmResult]) -> list[Row]:
    """Rows of curves.csv, one per snapshot of every run."""
    return [
        {"study": study["name"], "arm": arm.name, "value": arm.about["value"]}
        | {column: run[column] for column in ("n", "replicate", "role")}
        | snapshot
        for arm in arms
        for run in arm.record["runs"]
        for snapshot in run["snapshots"]
    ]


def contrast_rows(study: Mapping[str, Any], arms: Sequence[ArmResult], prior: Prior | None) -> list[Row]:
    """Rows of contrasts.csv: every arm against the first.

    A row holds the ratio of EMMs with its interval, or the limits that bounds on the EMMs leave.
    """
    baseline, *others = arms
    compare = compare_emms(arms, prior)
    rows = []
    for arm in others:
        contrast = compare(arm.name, baseline.name, CONFIDENCE)
        rows.append(
            {
                "study": study["name"],
                "arm": arm.name,
                "baseline": baseline.name,
                "setting": _settings(arm, baseline),
                "emm_ratio": contrast.ratio,
                "ratio_low": contrast.low or None,
                "ratio_high": contrast.high if contrast.high < math.inf else None,
                "paired": contrast.paired,
                "note": ""
                if contrast.ratio is not None
                else "At least one of the two has no estimate with an interval.",
            }
        )
    return rows


def onset_rows(study: Mapping[str, Any], arms: Sequence[ArmResult]) -> list[Row]:
    """Rows of onset.csv, one per run."""
    rows = []
    for arm in arms:
        for run in arm.record["runs"]:
            images, note = onset.onset(run["snapshots"])
            rows.append(
                {
                    "study": study["name"],
                    "arm": arm.name,
                    "n": run["n"],
                    "replicate": run["replicate"],
                    "level": onset.LEVEL,
                    "onset_images": images,
                    "onset_epochs": None if images is None else images / run["n"],
                    "note": note,
                }
            )
    return rows


def judge_claims(claims: Mapping[str, Finding], arms: Sequence[ArmResult], prior: Prior | None) -> dict[str, Judgement]:
    """The judgement on every claim of a study, by the claim's name."""
    by_name = {arm.name: arm for arm in arms}
    compare = compare_emms(arms, prior)
    advices = {arm.name: text for arm in arms if (text := advice(arm, arm.estimate(prior)))}
    judgements = {}
    for name, claim in claims.items():
        first = by_name[claim.arms[0]]
        if claim.expect == "proportional":
            onsets = [onset.onset(run["snapshots"])[0] for run in first.record["runs"]]
            judgements[name] = judge_growth(claim, onset.growth([run["n"] for run in first.record["runs"]], onsets))
        elif claim.at:
            runs = sum(run.n == claim.at for run in first.trail.runs)
            judgements[name] = judge(claim, compare_odds(arms, prior, claim.at), runs)
        else:
            judgements[name] = judge(claim, compare, len(first.trail.confirm), advices)
    return judgements


def finding_rows(study: Mapping[str, Any], arms: Sequence[ArmResult], prior: Prior | None) -> list[Row]:
    """Rows of findings.csv, one per claim of the study, judged."""
    claims = {name: Finding.model_validate(content) for name, content in study["findings"]}
    # A claim without a source of its own has that of the study's figure.
    claims = {n: claim.model_copy(update={"source": claim.source or study["source"]}) for n, claim in claims.items()}
    return claim_rows(study["name"], claims, judge_claims(claims, arms, prior), arms, study["as_published"])


def claim_rows(
    study: str,
    claims: Mapping[str, Finding],
    judgements: Mapping[str, Judgement],
    arms: Sequence[ArmResult],
    as_published: bool,
) -> list[Row]:
    """Rows of findings.csv, with empty cells (None) where there is no bound.

    Args:
        study: its name.
        judgements: by the names of the claims.
        as_published: whether the study has the images and the budget of the published ones.
    """
    by_name = {arm.name: arm for arm in arms}
    rows = []
    for name, claim in claims.items():
        judgement = judgements[name]
        compared = [by_name[arm] for arm in claim.arms]
        rows.append(
            {
                "study": study,
                "finding": name,
                "claim": claim.claim,
                "source": claim.source,
                "expect": claim.expect,
                "margin": claim.margin if claim.expect in ("same", "proportional") else None,
                "at": claim.at,
                "arms": " ".join(claim.arms),
                "verdict": worded(judgement.verdict, claim.source, as_published),
                "effect": judgement.effect,
                "effect_low": judgement.low or None,
                "effect_high": judgement.high if judgement.high < math.inf else None,
                "paired": judgement.paired,
                "further_runs": judgement.further,
                "note": judgement.note,
                "setting": _settings(*compared),
                "arm_keys": " ".join(arm.about["key"] for arm in compared),
            }
        )
    return rows


def _settings(*arms: ArmResult) -> str:
    """The images and budgets of several arms, each once."""
    return "; ".join(dict.fromkeys(images_and_budget(arm.about) for arm in arms))
