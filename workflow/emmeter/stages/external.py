"""The external stage runs a command of the user's that trains a model on a subset and generates images.

It stands in the place of the stages `train` and `sample`.  The page `docs/own_model.md` is the contract: what the
command receives, and what it must write.  Its images are checked before they become samples.npz.
"""

import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emmeter.command import command, end, execution_options, head, read_settings, stage_parser
from emmeter.data.subset import Subset
from emmeter.data.subset import load as load_subset
from emmeter.errors import StageError
from emmeter.files import checksums
from emmeter.files.generated import NUMBERS, Written, read_written
from emmeter.files.layout import record_settings
from emmeter.files.npz import write_npz
from emmeter.files.provenance import provenance
from emmeter.files.records import ExternalRecord
from emmeter.files.writing import replacing, write_json, write_text
from emmeter.machine import external as process
from emmeter.machine.process import Stop, interruptible
from emmeter.settings import invocation, keys
from emmeter.settings.sections import Setup
from emmeter.training import state as run_state
from emmeter.training.seeds import derive

POLL = 1.0  # seconds between two attempts to take a lock that another job holds
OWN, RAW, SPENT = "own", "samples.npz", "seconds"  # in the folder of a run's state: for the command, and of this stage


def seed_of(setup: Setup, n: int, replicate: int) -> int:
    """The seed of one run: below 2^31, which every library accepts."""
    return derive(setup.seed, "external", replicate, n) % 2**31


def places(
    setup: Setup, subset: Path, samples: Path, state: Path, seed: int, *, device: str = "auto", threads: int = 1
) -> dict[str, object]:
    """The value of each placeholder of a command, for one run; paths are absolute."""
    return {
        "subset": subset.resolve(),
        "samples": samples.resolve(),
        "state": state.resolve(),
        "seed": seed,
        "images": setup.sampling.images,
        "threads": threads,
        "device": device,
    }


def external(
    setup: Setup,
    subset: Path,
    *,
    n: int,
    replicate: int,
    output: Path,
    record: Path,
    state: Path,
    key: str = "",
    device: str = "auto",
    threads: int = 1,
    stop: Stop | None = None,
    grace: float = process.GRACE,
) -> None:
    """Run the command of an arm for one run, check its images, and write them.

    While another job works on the same run, the function waits.  The state of the command is removed at the end.  Its
    images stay in the folder of the state until they are scored: Snakemake may delete the outputs until then.

    Args:
        setup: settings of the run, with the command and the digests of its files.
        subset: path of subset.npz.
        n: number of training images.
        replicate: number of the run, from 0.
        output: path of samples.npz.
        record: path of sampling.json, in the same folder.
        state: folder of the run's state.
        key: settings key for the record; by default computed from `setup`.
        device: device that the command is asked for.
        threads: CPU threads that the command is asked for.
        stop: asks for the end of the command.
        grace: seconds that it then has.
    Raises:
        Interrupted: the command was asked to end before it was finished.
        RunLocked: `stop` was set while another job worked on this run.
        DataError: the subset has changed, or is missing or damaged.
        StageError: the command failed, its files have changed, or its images differ from the contract.
        OSError: a file cannot be written.
    """
    images, stop = load_subset(subset), stop or Stop()
    key, seed = key or keys.key("sample", setup), seed_of(setup, n, replicate)
    with run_state.held(state, lambda: not stop.wait(POLL)):
        started = time.monotonic()
        run_state.bind(state, f"{key} {n} {replicate} {checksums.sha256(subset)}")
        own, raw = state / OWN, state / RAW
        own.mkdir(exist_ok=True)
        values = places(setup, subset, state / f"new-{RAW}", own, seed, device=device, threads=threads)
        line = invocation.words(setup, values)
        head("external", n, replicate, shlex.join(line), f"seed {seed}", f"key {key}")
        if not raw.is_file():  # otherwise an earlier job made them, and its Snakemake did not note that
            attempts, before = _spent(state)
            _require_unchanged(setup, "since the workflow began; start it again")
            (state / f"new-{RAW}").unlink(missing_ok=True)
            try:
                process.run(line, stop, grace=grace)
            finally:
                write_text(state / SPENT, f"{attempts + 1} {before + time.monotonic() - started}")
            _require_unchanged(setup, "while the command ran; start the workflow again")
            read_written(state / f"new-{RAW}", setup.sampling.images, images.images.shape[1:])
            with replacing(raw) as whole:  # on the disk before the state goes
                (state / f"new-{RAW}").replace(whole)
        written = read_written(raw, setup.sampling.images, images.images.shape[1:])
        content = _record(setup, subset, n, replicate, written, line, state, key, device)
        _write(setup, images, written, content, output, record)
        shutil.rmtree(own, ignore_errors=True)
    shape = "x".join(map(str, written.images.shape))
    end(f"images of shape {shape}", content["seconds"])


def _spent(state: Path) -> tuple[int, float]:
    """Number of jobs that have worked on a run, and their seconds together."""
    try:
        attempts, seconds = (state / SPENT).read_text().split()
        return int(attempts), float(seconds)
    except (OSError, ValueError):
        return 0, 0.0


def _require_unchanged(setup: Setup, when: str) -> None:
    """Raises StageError if a file of the command is not the one that named the run."""
    if files := invocation.changed(setup):
        raise StageError(f"model.files = {files[0]!r}: has changed {when}")


def _record(
    setup: Setup,
    subset: Path,
    n: int,
    replicate: int,
    written: Written,
    line: Sequence[str],
    state: Path,
    key: str,
    device: str,
) -> ExternalRecord:
    attempts, seconds = _spent(state)
    images_trained, flops, parameters = (written.reported.get(name) for name in NUMBERS)
    return {
        "n": n,
        "replicate": replicate,
        "seed": seed_of(setup, n, replicate),
        "inputs": checksums.of(subset),
        "command": shlex.join(line),
        "images_trained": images_trained,
        "flops": flops,
        "parameters": parameters,
        "attempts": attempts,
        "device": device,
        **provenance(key, time.monotonic() - seconds),
    }


def _write(setup: Setup, subset: Subset, written: Written, content: ExternalRecord, output: Path, record: Path) -> None:
    """Write samples.npz in the form of the pipeline's own, with record, settings and checksums."""
    settings = record_settings(output.parent, "sample", setup)
    write_npz(
        output,
        images=written.images,
        labels=np.zeros(0, np.int64),  # the command chooses them, and does not report them
        seeds=np.zeros(0, np.int64),
        shares=written.shares,
        images_seen=written.images_seen,
    )
    write_json(record, content)
    checksums.record(output, record, settings)


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__, "--subset", "--output", "--record", "--state")
    execution_options(parser)
    args = parser.parse_args(argv)
    setup = read_settings(args.settings)
    with interruptible("the same command goes on from its state") as stop:
        external(
            setup,
            args.subset,
            n=args.n,
            replicate=args.replicate,
            output=args.output,
            record=args.record,
            state=args.state,
            key=args.key,
            device=args.device,
            threads=args.threads,
            stop=stop,
        )


if __name__ == "__main__":
    command(main)
