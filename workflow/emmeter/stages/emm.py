"""The emm stage turns an arm's finished search into its record.

The record holds every run with its role.  Intervals are made by the study stage, because they use the scatter of the
runs of all arms.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emmeter.command import command, end, read_settings, stage_parser
from emmeter.errors import StageError
from emmeter.files import checksums, records
from emmeter.files.layout import RUN_FOLDERS, record_settings
from emmeter.files.npz import write_npz
from emmeter.files.provenance import provenance
from emmeter.files.records import EmmRecord, ScoreRecord
from emmeter.files.scores import Scores, read_gallery, run_files
from emmeter.files.writing import write_json
from emmeter.measure.estimate import Estimate, estimate
from emmeter.measure.outcome import RunId, count
from emmeter.measure.results import SearchedRun, total
from emmeter.measure.search import Trail, replay
from emmeter.measure.trained import doubted
from emmeter.presentation.tables import brief
from emmeter.settings import keys
from emmeter.settings.sections import Setup


def emm(setup: Setup, *, sizes: Sequence[int], results: Path, output: Path, gallery: Path, key: str = "") -> None:
    """Replay an arm's search on the scores in `results`, and write its record and its gallery.

    Args:
        setup: settings of the arm.
        sizes: sizes that the search may ask for, increasing (`emmeter.measure.search.ladder`).
        results: folder of results, which holds the scores of the arm's runs.
        output: path of emm.json.
        gallery: path of gallery.npz, in the same folder.
        key: settings key for the record; by default computed from `setup`.
    Raises:
        StageError: the search is not finished.
        DataError: a score or a gallery has changed since it was written.
        OSError: a file cannot be read or written.
    """
    started = time.monotonic()
    known = key or keys.key("emm", setup)
    print(f"emm: search by {setup.search.rule}, epsilon {setup.search.epsilon:g}, key {known}", file=sys.stderr)
    scores = Scores(results, keys.key("score", setup), setup.scoring.snapshot)
    trail = replay(setup.search, sizes, scores)
    if trail.status == "open":  # guards against a workflow that stopped asking
        missing = trail.missing[0]
        checksums.check([scores.path(missing)])
        raise StageError(f"the search is not finished: N = {missing.n}, replicate {missing.replicate} has no score")
    runs = [describe_run(setup, scores, trail, run) for run in trail.runs]
    preliminary = doubted(estimate(setup.search, trail, scores, sizes, None), runs)
    images = read_gallery(run_files(scores, representative(trail, preliminary))[1])
    settings = record_settings(output.parent, "emm", setup)
    write_npz(gallery, **images)
    record: EmmRecord = {
        "rule": setup.search.rule,
        "epsilon": setup.search.epsilon,
        "threshold": setup.scoring.threshold,
        "snapshot": setup.scoring.snapshot,
        "status": trail.status,
        "sizes": list(sizes),
        "runs": runs,
        "keys": run_keys(setup),
        "images_trained": total(run["images_trained"] for run in runs),
        "flops": total(run["flops"] for run in runs),
        "run_seconds": round(sum(run["seconds"] for run in runs), 3),
        **provenance(known, started),
    }
    write_json(output, record)
    checksums.record(output, gallery, settings)
    # Tables may show another interval, because the study stage knows the scatter of all arms' runs.
    end(f"EMM {brief(preliminary)} from the {len(runs)} runs of this arm alone", time.monotonic() - started)


def run_keys(setup: Setup) -> dict[keys.Stage, str]:
    """The keys under which the stages of an arm's runs have stored them; only a network has a training of its own."""
    made: list[keys.Stage] = [stage for stage in RUN_FOLDERS if stage != "train" or setup.kind == "network"]
    return {stage: keys.key(stage, setup) for stage in made}


def describe_run(setup: Setup, scores: Scores, trail: Trail, run: RunId) -> SearchedRun:
    """Describe one run of a search: its role, the counts of its snapshots and its cost.

    Raises:
        DataError: the run's score has changed since it was written.
        OSError: the score cannot be read.
    """
    score = records.read(scores.path(run), ScoreRecord)
    counted = count(score, setup.scoring.snapshot)
    held_out: dict[str, Any] = {name: score[name] for name in ("held_out_distance",) if name in score}
    return {
        "n": run.n,
        "replicate": run.replicate,
        "role": "confirm" if run in trail.confirm else ("grid" if setup.search.rule == "grid" else "locate"),
        "memorized": counted.memorized,
        "images": counted.images,
        "snapshots": score["snapshots"],
        **held_out,
        **score["cost"],
    }  # type: ignore[typeddict-item]


def representative(trail: Trail, estimate: Estimate) -> RunId:
    """Choose the run whose gallery stands for the arm: the one nearest to EMM, or to its limit."""
    target = estimate.emm or estimate.low or estimate.high or float(np.median([run.n for run in trail.runs]))
    return min(trail.runs, key=lambda run: (abs(np.log2(run.n / target)), run.replicate, run.n))


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__, "--results", "--output", "--gallery", run=False)
    parser.add_argument("--sizes", required=True, help="sizes that the search may ask for, as JSON")
    args = parser.parse_args(argv)
    emm(
        read_settings(args.settings),
        sizes=json.loads(args.sizes),
        results=args.results,
        output=args.output,
        gallery=args.gallery,
        key=args.key,
    )


if __name__ == "__main__":
    command(main)
