"""The emm stage: ``python -m emm.measure`` turns an arm's finished search into its record.

The record holds every run with its role; the study stage makes intervals, as it pools the scatter of runs over arms.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from emm import checksums
from emm.dag import Scores, count, run_files
from emm.files import provenance, write_json, write_npz
from emm.keys import key
from emm.search import Count, RunId, Trail, replay
from emm.settings import Run
from emm.stage import StageError, arguments, command, read_settings, record_settings
from emm.statistics import Estimate, estimate


def main() -> None:
    parser = arguments(__doc__, "--results", "--output", "--gallery", run=False)
    parser.add_argument("--sizes", required=True, help="ladder of the search as JSON")
    args = parser.parse_args()
    started = time.monotonic()
    run = read_settings(args.settings)
    scores = Scores(args.results, key("score", run), run.scoring.snapshot)
    sizes = json.loads(args.sizes)
    trail = replay(run.search, sizes, scores)
    if not trail.finished:  # guards against a workflow that stopped asking
        missing = trail.missing[0]
        checksums.check([scores.path(missing)])
        raise StageError(f"the search is not finished: N = {missing.n}, replicate {missing.replicate} has no score")
    runs = [describe_run(run, scores, trail, one) for one in trail.runs]
    alone = estimate(run.search, trail, scores, sizes, None)
    gallery = run_files(scores, representative(trail, alone))[1]
    checksums.check([gallery])
    settings = record_settings(args.output.parent, args.settings)
    with np.load(gallery, allow_pickle=False) as archive:
        write_npz(args.gallery, **{name: archive[name] for name in archive.files})
    write_json(
        args.output,
        {
            "rule": run.search.rule,
            "epsilon": run.search.epsilon,
            "threshold": run.scoring.threshold,
            "snapshot": run.scoring.snapshot,
            "status": trail.status,
            "sizes": sizes,
            "runs": runs,
            "images_trained": sum(r["images_trained"] for r in runs),
            "flops": sum(r["flops"] for r in runs),
            "run_seconds": round(sum(r["seconds"] for r in runs), 3),
            **provenance(args.key, started),
        },
    )
    checksums.record(args.output, args.gallery, settings)


def describe_run(run: Run, scores: Scores, trail: Trail, one: RunId) -> dict[str, Any]:
    """One run of the search: place, role, counts of every snapshot, cost."""
    score = checksums.read_json(scores.path(one))
    chosen = count(score, run.scoring.snapshot)
    return {
        "n": one.n,
        "replicate": one.replicate,
        "role": "confirm" if one in trail.confirm else ("grid" if run.search.rule == "grid" else "locate"),
        "memorized": chosen.memorized,
        "images": chosen.images,
        "snapshots": score["snapshots"],
        **score["cost"],
    }


def representative(trail: Trail, found: Estimate) -> RunId:
    """The run whose gallery stands for the arm: nearest to EMM, or to the limit that is known."""
    target = found.emm or found.low or found.high or float(np.median([run.n for run in trail.runs]))
    return min(trail.runs, key=lambda run: (abs(np.log2(run.n / target)), run.replicate, run.n))


def counts_of(record: Mapping[str, Any]) -> dict[RunId, Count]:
    """The counts of a record, as the search saw them."""
    return {RunId(run["n"], run["replicate"]): Count(run["memorized"], run["images"]) for run in record["runs"]}


def trail_of(record: Mapping[str, Any]) -> Trail:
    """The finished search of a record."""

    def ids(*roles: str) -> tuple[RunId, ...]:
        return tuple(RunId(run["n"], run["replicate"]) for run in record["runs"] if run["role"] in roles)

    return Trail(locate=ids("locate", "grid"), confirm=ids("confirm"), missing=(), status=record["status"])


def best_counts(record: Mapping[str, Any]) -> dict[RunId, Count]:
    """Counts under the paper's rule: each run's highest ratio over its snapshots."""
    return {RunId(run["n"], run["replicate"]): count(run, "best") for run in record["runs"]}


if __name__ == "__main__":
    command(main)
