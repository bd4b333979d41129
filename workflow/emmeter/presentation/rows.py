"""The rows of a study's tables, from the finished searches of its arms.

`study` is the description of a study, as `emmeter.pipeline.description` makes it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from emmeter.measure import budget, onset
from emmeter.measure.advice import advice
from emmeter.measure.arms import ArmResult
from emmeter.measure.claims import CONFIDENCE, Judgement, judge, judge_forecast, judge_growth, worded
from emmeter.measure.comparison import compare_emms, compare_odds
from emmeter.measure.contrasts import Contrast
from emmeter.measure.scatter import Prior
from emmeter.presentation.tables import OWN_BUDGET, images_and_budget
from emmeter.settings.studies import Finding
from emmeter.settings.types import Span

Row = dict[str, Any]


def epochs(budget: str, n: float | None) -> float | None:
    """Passes over `n` training images within a budget such as "16000 images"; None if one of the two is not known."""
    if budget in ("", OWN_BUDGET) or n is None:
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
                "key": arm.about["emm_key"],
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
        contrast = compare((arm.name,), (baseline.name,), CONFIDENCE)
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


def budget_rows(study: Mapping[str, Any], arms: Sequence[ArmResult], prior: Prior | None) -> list[Row]:
    """Rows of budget.csv: the arms of every claim about a forecast, in the order of the claim.

    Columns `law*` hold EMM by the law through all arms but the last.  That of the last arm is a forecast.
    """
    by_name = {arm.name: arm for arm in arms}
    compare = compare_emms(arms, prior)
    rows = []
    for name, claim in _claims(study).items():
        if claim.expect != "forecast":
            continue
        compared = [by_name[arm] for arm in claim.names]
        law = _law(compared, prior)
        for index, arm in enumerate(compared):
            estimate, images = arm.estimate(prior), _images(arm)
            before = _images(compared[index - 1]) if index else None
            contrast = compare((arm.name,), (compared[index - 1].name,), CONFIDENCE)
            local = budget.exponent(contrast, images, before) if images and before else None
            expected = law.emms[index] if law else None
            rows.append(
                {
                    "study": study["name"],
                    "finding": name,
                    "arm": arm.name,
                    "images": images,
                    "emm": estimate.emm,
                    "emm_low": estimate.low,
                    "emm_high": estimate.high,
                    "exponent": local and local[0],
                    "exponent_low": local and local[1],
                    "exponent_high": local and local[2],
                    "law": expected and expected.emm,
                    "law_low": expected and expected.low,
                    "law_high": expected and expected.high,
                    "forecast": index == len(compared) - 1,
                    "law_fixed": law and law.law.fixed,
                    "law_linear": law and law.law.linear,
                    "law_quadratic": law and law.law.quadratic,
                }
            )
    return rows


def _images(arm: ArmResult) -> float | None:
    """Images that a training of the arm sees; None if it is given in epochs and so depends on N, or not known."""
    if arm.about["budget"] in ("", OWN_BUDGET):
        return None
    span = Span.parse(arm.about["budget"])
    return span.images(1) if span.unit == "images" else None


def _law(arms: Sequence[ArmResult], prior: Prior | None) -> budget.Forecast | None:
    """The law through all arms but the last, at the budgets of all; None if an arm has no budget or no interval."""
    images = [_images(arm) for arm in arms]
    estimates = [arm.estimate(prior) for arm in arms[:-1]]
    if not all(images) or not all(estimate.emm and estimate.run_sd for estimate in estimates):
        return None
    known = [number for number in images if number]
    return budget.forecast(known[:-1], estimates, known)


def _forecast(arms: Sequence[ArmResult], prior: Prior | None) -> Contrast:
    """Measured over forecast EMM of the last arm."""
    law, measured = _law(arms, prior), arms[-1].estimate(prior)
    if law is None or not (measured.emm and measured.run_sd):
        note = "The law needs an EMM with an interval of every arm, and budgets in images."
        return Contrast(None, 0.0, math.inf, note=note)
    return budget.measured_over_forecast(measured, law.emms[-1])


def judge_claims(claims: Mapping[str, Finding], arms: Sequence[ArmResult], prior: Prior | None) -> dict[str, Judgement]:
    """The judgement on every claim of a study, by the claim's name."""
    by_name = {arm.name: arm for arm in arms}
    compare = compare_emms(arms, prior)
    advices = {arm.name: text for arm in arms if (text := advice(arm, arm.estimate(prior)))}
    judgements = {}
    for name, claim in claims.items():
        first = by_name[claim.names[0]]
        if claim.expect == "proportional":
            onsets = [onset.onset(run["snapshots"])[0] for run in first.record["runs"]]
            judgements[name] = judge_growth(claim, onset.growth([run["n"] for run in first.record["runs"]], onsets))
        elif claim.expect == "forecast":
            judgements[name] = judge_forecast(claim, _forecast([by_name[arm] for arm in claim.names], prior))
        elif claim.at:
            runs = sum(run.n == claim.at for run in first.trail.runs)
            judgements[name] = judge(claim, compare_odds(arms, prior, claim.at), runs)
        else:
            judgements[name] = judge(claim, compare, len(first.trail.confirm), advices)
    return judgements


def finding_rows(study: Mapping[str, Any], arms: Sequence[ArmResult], prior: Prior | None) -> list[Row]:
    """Rows of findings.csv, one per claim of the study, judged."""
    claims = _claims(study)
    # A claim without a source of its own has that of the study's figure.
    claims = {n: claim.model_copy(update={"source": claim.source or study["source"]}) for n, claim in claims.items()}
    return claim_rows(study["name"], claims, judge_claims(claims, arms, prior), arms, study["as_published"])


def _claims(study: Mapping[str, Any]) -> dict[str, Finding]:
    return {name: Finding.model_validate(content) for name, content in study["findings"]}


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
        compared = [by_name[arm] for arm in claim.names]
        rows.append(
            {
                "study": study,
                "finding": name,
                "claim": claim.claim,
                "source": claim.source,
                "expect": claim.expect,
                "margin": claim.margin if claim.expect in ("same", "proportional", "forecast") else None,
                "at": claim.at,
                "arms": " ".join("+".join(side) for side in claim.sides),
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
