"""The study stage: ``python -m emm.study`` estimates and compares a study's arms, and writes its tables."""

import argparse
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emm import checksums, findings, onset, scatter
from emm.contrasts import Contrast, at_size, compare, compare_at, confirmed
from emm.files import write_csv, write_text
from emm.keys import key
from emm.measure import best_counts, counts_of, trail_of
from emm.scatter import Prior, RunVariance
from emm.search import Count, RunId, Trail
from emm.settings import Finding, Run, Search, Span, lookup
from emm.stage import StageError, command
from emm.statistics import Estimate, estimate
from emm.tables import EMM_COLUMNS, budget, page

if TYPE_CHECKING:  # the index reads settings and data, which the stage does not
    from emm.dag import Dag

CURVE_COLUMNS = (
    "study", "arm", "value", "n", "replicate", "role", "progress", "images_seen", "memorized", "images", "ratio",
    "ratio_low", "ratio_high", "mean_distance",
)  # fmt: skip
CONTRAST_COLUMNS = ("study", "arm", "baseline", "setting", "emm_ratio", "ratio_low", "ratio_high", "paired", "note")


def description(dag: "Dag", name: str) -> dict[str, Any]:
    """What the stage must know of a study beside its arms' records; a plain mapping for its command line."""
    study = dag.study(name)
    return {
        "name": study.name,
        "title": study.title,
        "source": study.source,
        "factor": study.factor,
        "as_published": as_published(dag.settings.base),
        "arms": [
            {
                "name": arm.name,
                "value": str(lookup(arm.run, study.factor)) if study.factor else "",
                "search": arm.run.search.model_dump(),
                "key": key("score", arm.run),
                "data": arm.run.data.source + (f" + {arm.run.data.mixture}" if arm.run.data.sources[1:] else ""),
                "resolution": dag.shapes[key("subset", arm.run)][1],
                "budget": arm.run.training.duration if arm.run.diffusion.denoiser == "network" else "",
                "multiple": dag.usable[key("emm", arm.run)][0],
                "available": dag.usable[key("emm", arm.run)][1],
            }
            for arm in study.arms
        ],
        "findings": [[name, finding.model_dump()] for name, finding in study.findings.items()],  # in order
    }


def as_published(base: Run) -> bool:
    """Whether base settings have the images, resolution and training budget of the published studies (the defaults)."""
    paper = Run()
    ours, theirs = ((run.data.source, run.data.resolution, run.training.duration) for run in (base, paper))
    return ours == theirs


@dataclass(frozen=True)
class ArmResult:
    """An arm with its record and its finished search.  `about`: what `description` tells of it."""

    name: str
    about: Mapping[str, Any]
    search: Search
    record: Mapping[str, Any]
    trail: Trail

    def variance(self, counts: Mapping[RunId, Count], prior: Prior | None) -> RunVariance | None:
        return scatter.moderated(scatter.own(self.trail, counts), prior)

    def estimate(self, counts: Mapping[RunId, Count], prior: Prior | None, confidence: float = 0.95) -> Estimate:
        sizes = self.record["sizes"]
        return estimate(self.search, self.trail, counts, sizes, self.variance(counts, prior), confidence)


def prior_of(arms: Sequence[ArmResult]) -> Prior | None:
    """What the arms of one study tell of the scatter of runs, where nothing is known of other studies."""
    return scatter.fit(scatter.distinct((arm.about["key"], arm.trail, counts_of(arm.record)) for arm in arms))


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


def epochs(budget: str, n: float | None) -> float | None:
    """Passes over `n` training images that a budget such as "16000 images" allows; None where one is not known."""
    if not budget or n is None:
        return None
    return Span.parse(budget).images(1) / (n if Span.parse(budget).unit == "images" else 1)


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


def comparison(arms: Sequence[ArmResult], prior: Prior | None, at: int | None = None) -> findings.Compare:
    """Contrasts of the arms by their names: ratios of EMMs, or with `at` odds of a copy at so many training images."""
    by_name = {arm.name: arm for arm in arms}
    counts = {arm.name: counts_of(arm.record) for arm in arms}

    @functools.cache
    def known(confidence: float) -> dict[str, tuple[Estimate, Any]]:
        result = {}
        for arm in arms:
            found = arm.estimate(counts[arm.name], prior, confidence)
            variance = arm.variance(counts[arm.name], prior)
            result[arm.name] = found, confirmed(arm.trail, counts[arm.name], found, variance)
        return result

    def of_emm(first: str, second: str, confidence: float) -> Contrast:
        estimates = known(confidence)
        return compare(estimates[first], estimates[second], [runs for _, runs in estimates.values()], confidence)

    def of_size(first: str, second: str, confidence: float) -> Contrast:
        assert at is not None
        known = []
        for name in (first, second):
            variance = by_name[name].variance(counts[name], prior)
            if variance is None:
                note = "Nothing tells how much runs scatter: set search.replicates to at least 2."
                return Contrast(None, 0.0, math.inf, note=note)
            known.append(at_size(at, by_name[name].trail.runs, counts[name], variance))
        found = compare_at(known[0], known[1], confidence)
        without = [name for name, runs in zip((first, second), known, strict=True) if runs.limit]
        note = f"No run of {' and '.join(without)} on {at} images: put {at} into search.grid, or move `at`."
        return replace(found, note=note) if without else found

    return of_emm if at is None else of_size


def contrast_rows(study: Mapping[str, Any], arms: Sequence[ArmResult], prior: Prior | None) -> list[dict[str, Any]]:
    """Every arm against the first: ratio of EMMs with its interval, or what the limits of the two leave of it."""
    result = []
    ratios = comparison(arms, prior)
    for arm in arms[1:]:
        found = ratios(arm.name, arms[0].name, findings.CONFIDENCE)
        result.append(
            {
                "study": study["name"],
                "arm": arm.name,
                "baseline": arms[0].name,
                "setting": "; ".join(dict.fromkeys(budget(one.about) for one in (arm, arms[0]))),
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
        runs = onset.rows("", "", first.record["runs"])
        growth = onset.growth([row["n"] for row in runs], [row["onset_images"] for row in runs])
        of_claim = [run for run in first.trail.runs if run.n == claim.at] if claim.at else first.trail.confirm
        missing = {} if claim.at else {name: text for name, text in wanted.items() if text}
        judged.append(findings.judge(claim, comparison(arms, prior, claim.at), len(of_claim), growth, missing))
    known = {arm.name: (arm.about["key"], budget(arm.about)) for arm in arms}
    return findings.rows(study["name"], claims, judged, known, study["as_published"])


def wanting(arm: ArmResult, found: Estimate) -> str:
    """What would give an arm an EMM with an interval, or why nothing would; empty where it has one."""
    sizes, multiple, available = arm.record["sizes"], arm.about["multiple"], arm.about["available"]
    if arm.search.rule == "grid":
        return "rule grid gives brackets, which decide no claim; search.rule: bisection gives intervals."
    if found.status == "undetermined":
        return found.note
    if found.status == "at_least":
        if sizes[-1] < available:
            return f"EMM is at least {found.low:.0f}: raise search.n_max (to at most {available})."
        return f"EMM is at least {found.low:.0f}, and the data have no larger subset: train less or add images."
    if found.status == "below":
        lowest = math.ceil(2 / multiple) * multiple
        if sizes[0] > lowest:
            return f"EMM is below {found.high:.0f}: lower search.n_min (to at least {lowest}), or train longer."
        balance = "set data.balanced: false, or " if multiple > 1 else ""
        return f"EMM is below {found.high:.0f}, and no smaller subset exists: {balance}train longer."
    return "" if found.run_sd is not None else "there is no interval without fresh runs: set search.confirm: 4."


def read_arms(study: Mapping[str, Any], records: Sequence[Path]) -> list[ArmResult]:
    """The arms of a study with their records, in the order of the configuration."""
    if len(records) != len(study["arms"]):
        raise StageError(f"--records: {len(records)} files for the {len(study['arms'])} arms of study {study['name']}")
    arms = []
    for arm, path in zip(study["arms"], records, strict=True):
        record = checksums.read_json(path)
        arms.append(ArmResult(arm["name"], arm, Search.model_validate(arm["search"]), record, trail_of(record)))
    return arms


def read_prior(text: str) -> Prior | None:
    """The prior of `Dag.prior` from a command line: a mapping as JSON, or null."""
    fields = json.loads(text)
    return None if fields is None else Prior(**fields)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--study", required=True, help="description of the study as JSON")
    parser.add_argument("--records", type=Path, nargs="+", required=True, help="emm.json of every arm, in order")
    parser.add_argument("--prior", default="null", help="scatter of the runs of all finished arms as JSON")
    for option in ("--emm", "--curves", "--contrasts", "--findings", "--onset", "--page"):
        parser.add_argument(option, type=Path, required=True)
    args = parser.parse_args()
    study = json.loads(args.study)
    arms = read_arms(study, args.records)
    prior = read_prior(args.prior) or prior_of(arms)
    rows = emm_rows(study, arms, prior)
    write_csv(args.emm, EMM_COLUMNS, rows)
    write_csv(args.curves, CURVE_COLUMNS, curve_rows(study, arms))
    write_csv(args.contrasts, CONTRAST_COLUMNS, contrast_rows(study, arms, prior))
    write_csv(args.findings, findings.COLUMNS, finding_rows(study, arms, prior))
    write_csv(
        args.onset, onset.COLUMNS, [r for arm in arms for r in onset.rows(study["name"], arm.name, arm.record["runs"])]
    )
    write_text(args.page, page(f"EMM: {study['title']}", rows))


if __name__ == "__main__":
    command(main)
