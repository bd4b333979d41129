"""The time that Snakemake itself needs: a dry run, and the overhead of each finished run, in a large project.

The project's tracked files are copied to a new folder.  An overlay adds and selects STUDIES studies of ARMS arms each.
The arms differ in `training.weight_decay`, so no two arms share a training.  Snakefile, rules, profile, package and
search are the real ones.  The search asks for 7 runs per arm, 3 to locate and 4 to confirm.  The scores that it reads
are computed beforehand for every size of the ladder.  They follow the curve that `emmeter.pipeline.plan` assumes, with
EMM two octaves above search.start.

Only the jobs are not real.  A shell script precedes Python on their PATH.  It reads the same command line and writes
files of the right names: a score and its checksum by N, and a line of text for everything else.

Reported are the seconds of ``snakemake -n`` in the empty and in the finished project, as medians of STARTS starts after
an untimed one, and the seconds of the whole execution per run.  A run is a subset, a training, a sampling and a score,
with its part of the searches and tables.  The plain baseline calls the same script for the same four steps from a shell
loop.

The clock of Snakemake's process splits its processor time into Python with Snakemake's imports, reading the rules (with
our imports and the configuration), functions of the rules, and the rest, Snakemake's work on its graph of jobs.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from benchmarks import project, timing
from benchmarks.record import Row, make
from emmeter.command import positive
from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.provenance import cores
from emmeter.measure.outcome import RunId
from emmeter.measure.search import replay
from emmeter.pipeline.costs import Assumed
from emmeter.pipeline.index import index_of
from emmeter.settings.configuration import load, read
from emmeter.settings.keys import key

STUDIES, ARMS, RUNS = 15, 6, 7
STARTS = 3  # timed starts of each dry run, of which the medians count
PARTS = {
    "imports": "of these imports",
    "rules": "reading the rules",
    "functions": "functions of the rules",
    "graph": "Snakemake's graph",
}  # of the processor seconds, as rows name them
PLAIN_RUNS = 50  # runs of the shell loop
OCTAVES = 2.0  # of the crossing above search.start; three runs locate it there
DECAY = 1e-6  # weight decay of the first arm; the other arms have multiples of it

# Writes the outputs of `python -m emmeter.stages.MODULE OPTIONS` without its work.  It passes `python -c` on, by which
# `emmeter.pipeline.jobs` asks a script for the Python behind it: the workflow ignores scripts that hide another Python.
STAGE = """#!/bin/sh
[ "$1" = -c ] && exec {python} "$@"
[ "$2" = emmeter.machine.warm ] && shift
module=$2
shift 2
n=
while [ $# -gt 0 ]; do
    case $1 in
        --n) n=$2 ;;
        --score) cp "{scores}/$n.json" "$2"; cp "{scores}/$n.sums" "${{2%/*}}/{sums}" ;;
        --snapshots) [ "$module" = emmeter.stages.train ] && echo made > "$2" ;;
        --emm|--curves|--contrasts|--findings|--onset) [ "$module" = emmeter.stages.study ] && echo made > "$2" ;;
        --folder)
            for name in curves emm progress gallery; do echo made > "$2/$name.svg"; echo made > "$2/$name.png"; done ;;
        --log|--record|--output|--neighbours|--gallery|--page|--table) echo made > "$2" ;;
    esac
    shift
done
exit 0
"""

# The steps of a run without Snakemake.
LOOP = """
for i in $(seq {runs}); do
    mkdir -p plain/$i
    python -m emmeter.stages.subset --n {n} --output plain/$i/subset.npz
    python -m emmeter.stages.train --n {n} --snapshots plain/$i/snapshots --log plain/$i/log \\
        --record plain/$i/training.json
    python -m emmeter.stages.sample --n {n} --output plain/$i/samples.npz --record plain/$i/sampling.json
    python -m emmeter.stages.score --n {n} --score plain/$i/score.json --neighbours plain/$i/nearest \\
        --gallery plain/$i/gallery
done
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--studies", type=positive, default=STUDIES)
    parser.add_argument("--arms", type=positive, default=ARMS, help="per study")
    parser.add_argument("--cores", type=positive, default=cores())


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Yield three rows: dry run before, execution per run, dry run after.

    Raises:
        StageError: the search does not ask for RUNS runs, the workflow fails, or it would run jobs again at the end.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, programs, log = Path(name, "project"), Path(name, "programs"), Path(name, "jobs")
        project.copy(folder)
        overlay = prepare(folder, Path(name, "scores"), args.studies, args.arms)
        project.program(
            programs / "python", STAGE.format(python=sys.executable, scores=Path(name, "scores"), sums=checksums.NAME)
        )
        given = ["--cores", args.cores, "--configfile", overlay]
        before = dry_runs(folder, programs, log, given)
        done = project.snakemake(folder, programs, log, given)
        after = dry_runs(folder, programs, log, given)
        runs = len(list((folder / "results" / "scores").glob("*/n*/r*/score.json")))
        if runs != args.studies * args.arms * RUNS:
            raise StageError(f"dag: {runs} runs have a score; expected {args.studies} x {args.arms} x {RUNS}")
        if "Nothing to be done" not in after[0].output:
            raise StageError("dag: Snakemake would run jobs again in the finished project")
        start = read(load([overlay], folder)).base.search.start
        plain = loop(folder, programs, start)
    details = {"studies": args.studies, "arms": args.arms, "runs": runs, "cores": args.cores}

    def dry_run(case: str, executions: list[project.Execution]) -> Row:
        seconds = statistics.median(execution.seconds for execution in executions)
        return make("dag", case, "s", seconds, details={**details, **processor(executions), "starts": STARTS})

    yield dry_run("dry run of an empty project", before)
    each = done.seconds / runs
    own = {**details, **processor([done])}
    yield make("dag", "a finished run", "s", each, plain, timing.ratio([plain], [each]), own)
    yield dry_run("dry run of a finished project", after)


def dry_runs(folder: Path, programs: Path, log: Path, given: list[object]) -> list[project.Execution]:
    """STARTS dry runs, after one that compiles Python's modules and fills the caches of files."""
    return [project.snakemake(folder, programs, log, [*given, "--dry-run"]) for _ in range(STARTS + 1)][1:]


def processor(executions: Sequence[project.Execution]) -> dict[str, float]:
    """Processor seconds of Snakemake's process and their parts, as medians."""
    whole = {"Snakemake's processor seconds": [execution.processor_seconds for execution in executions]}
    parts = {name: [execution.parts[part] for execution in executions] for part, name in PARTS.items()}
    return {name: statistics.median(seconds) for name, seconds in (whole | parts).items()}


def prepare(folder: Path, scores: Path, studies: int, arms: int) -> Path:
    """Write the overlay with the studies, and a score for every size that a search may request.

    Returns:
        The overlay's path.
    Raises:
        StageError: the search would not ask for RUNS runs.
    """
    added = {
        f"study_{i}": {
            "factor": "training.weight_decay",
            "arms": {f"arm-{j}": {"training.weight_decay": DECAY * (1 + i * arms + j)} for j in range(arms)},
        }
        for i in range(studies)
    }
    content = {
        "run": list(added),
        "studies": added,
        "search": {"start": 20, "confirm": 4},
        "execution": {"device": "cpu"},  # no job waits for a GPU
    }
    overlay = folder / "dag.yaml"
    overlay.write_text(yaml.safe_dump(content, sort_keys=False))
    settings = read(load([overlay], folder))
    index = index_of(settings, folder / "results")
    setup = next(study for study in settings.studies if study.name == "study_0").arms[0].setup
    curve = Assumed(setup)
    curve.emm = 2.0**OCTAVES * setup.search.start
    sizes = index.sizes[key("emm", setup)]
    requested = replay(setup.search, sizes, curve).runs
    if len(requested) != RUNS:
        raise StageError(f"dag: the search asks for {len(requested)} runs, not {RUNS}: {[run.n for run in requested]}")
    scores.mkdir()
    for n in sizes:
        count = curve[RunId(n, 0)]
        snapshot = {"memorized": count.memorized, "images": count.images}
        score = scores / f"{n}.json"
        score.write_text(json.dumps({"snapshots": [snapshot]}))
        score.with_suffix(".sums").write_text(f"{checksums.sha256(score)}  score.json\n")
    return overlay


def loop(folder: Path, programs: Path, n: int) -> float:
    """Time one run in a plain shell loop, in seconds."""
    script = LOOP.format(runs=PLAIN_RUNS, n=n)
    begun = time.perf_counter()
    subprocess.run(["sh", "-c", script], cwd=folder, env={"PATH": f"{programs}:/usr/bin:/bin"}, check=True)
    return (time.perf_counter() - begun) / PLAIN_RUNS
