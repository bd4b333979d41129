"""The emm stage turns an arm's finished search into its record.

The record holds every run with its role; the study stage makes intervals, as it pools the scatter of runs over arms.
"""

import json
import time
from typing import Any

import numpy as np

from emmeter.command import arguments, command, read_settings
from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.layout import record_settings
from emmeter.files.npz import write_npz
from emmeter.files.provenance import provenance
from emmeter.files.scores import Scores, run_files
from emmeter.files.writing import write_json
from emmeter.measure.estimate import Estimate, estimate
from emmeter.measure.outcome import RunId, count
from emmeter.measure.search import Trail, replay
from emmeter.settings.keys import key
from emmeter.settings.sections import Setup


def main() -> None:
    parser = arguments(__doc__, "--results", "--output", "--gallery", run=False)
    parser.add_argument("--sizes", required=True, help="ladder of the search as JSON")
    args = parser.parse_args()
    started = time.monotonic()
    setup = read_settings(args.settings)
    scores = Scores(args.results, key("score", setup), setup.scoring.snapshot)
    sizes = json.loads(args.sizes)
    trail = replay(setup.search, sizes, scores)
    if not trail.finished:  # guards against a workflow that stopped asking
        missing = trail.missing[0]
        checksums.check([scores.path(missing)])
        raise StageError(f"the search is not finished: N = {missing.n}, replicate {missing.replicate} has no score")
    runs = [describe_run(setup, scores, trail, one) for one in trail.runs]
    alone = estimate(setup.search, trail, scores, sizes, None)
    gallery = run_files(scores, representative(trail, alone))[1]
    checksums.check([gallery])
    settings = record_settings(args.output.parent, args.settings)
    with np.load(gallery, allow_pickle=False) as archive:
        write_npz(args.gallery, **{name: archive[name] for name in archive.files})
    write_json(
        args.output,
        {
            "rule": setup.search.rule,
            "epsilon": setup.search.epsilon,
            "threshold": setup.scoring.threshold,
            "snapshot": setup.scoring.snapshot,
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


def describe_run(setup: Setup, scores: Scores, trail: Trail, one: RunId) -> dict[str, Any]:
    """One run of the search: place, role, counts of every snapshot, cost."""
    score = checksums.read_json(scores.path(one))
    chosen = count(score, setup.scoring.snapshot)
    return {
        "n": one.n,
        "replicate": one.replicate,
        "role": "confirm" if one in trail.confirm else ("grid" if setup.search.rule == "grid" else "locate"),
        "memorized": chosen.memorized,
        "images": chosen.images,
        "snapshots": score["snapshots"],
        **score["cost"],
    }


def representative(trail: Trail, found: Estimate) -> RunId:
    """The run whose gallery stands for the arm: nearest to EMM, or to the limit that is known."""
    target = found.emm or found.low or found.high or float(np.median([run.n for run in trail.runs]))
    return min(trail.runs, key=lambda run: (abs(np.log2(run.n / target)), run.replicate, run.n))


if __name__ == "__main__":
    command(main)
