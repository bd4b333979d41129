"""``emm try STUDY/ARM``: the contract of a command of the user's, checked on about ten images."""

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emmeter.commands.present import named, present
from emmeter.data import datasets
from emmeter.data.subset import draw, save
from emmeter.errors import StageError
from emmeter.files.generated import Written, read_written
from emmeter.machine import external as process
from emmeter.machine.process import Interrupted, Stop
from emmeter.settings import invocation
from emmeter.settings.keys import key
from emmeter.settings.sections import Setup
from emmeter.stages.external import places, seed_of

IMAGES = 10  # generated, and about as many to train on
SHORTEST = 0.2  # seconds of the first run, so that another one can be interrupted
OWN = frozenset({".git", ".venv", ".snakemake", "__pycache__", "results", "logs"})  # folders of the project's own tools


@dataclass(frozen=True)
class Trial:
    """One arm on one small subset, in a folder that is removed afterwards."""

    setup: Setup
    folder: Path
    shape: tuple[int, ...]

    def run(self, name: str, seed: int, stop: Stop | None = None) -> Written:
        """Run the command, with a state of this name, and check its images.

        Raises:
            Interrupted: `stop` was set.
            StageError: the command failed, or its images differ from the contract.
        """
        samples, state = self.folder / f"{name}.npz", self.folder / name
        state.mkdir(exist_ok=True)
        values = places(self.setup, self.folder / "subset.npz", samples, state, seed)
        process.run(invocation.words(self.setup, values), stop or Stop(), show=lambda chunk: None)
        return read_written(samples, IMAGES, self.shape)


def try_arm(results: Path, text: str, overlays: Sequence[Path] = ()) -> None:
    """Run the command of STUDY/ARM on about ten images, several times, and print what was checked.

    Nothing is written into the folder of results.

    Raises:
        SettingsError: the configuration is wrong.
        StageError: there is no such arm, or its command breaks the contract; one line.
    """
    index = present(results, overlays, data_needed=True)
    asked = named(index, text)
    if "/" not in text:
        raise StageError(f"{text}: must name one arm, such as {text}/{asked.arms[0].name}")
    setup = asked.arms[0].setup
    if setup.kind != "command":
        raise StageError(f"{text}: has no model.command; `emm try` runs the command of an arm")
    sizes = index.sizes[key("emm", setup)]
    n = next((size for size in sizes if size >= IMAGES), sizes[-1])
    setup = setup.model_copy(update={"sampling": setup.sampling.model_copy(update={"images": IMAGES})})
    with tempfile.TemporaryDirectory(prefix="emm-try-") as folder:
        subset = draw(setup, n, 0, datasets.load(setup.data))
        save(Path(folder) / "subset.npz", subset)
        trial = Trial(setup, Path(folder), subset.images.shape[1:])
        before = _files()
        print(f"{text} on {n} images: the command runs four times ...", file=sys.stderr, flush=True)
        faults = _checks(trial, n)
        if written := sorted(name for name, state in _files().items() if before.get(name) != state):
            more = f" and {len(written) - 3} more" if written[3:] else ""
            names = ", ".join(written[:3]) + more
            faults.append(f"writes elsewhere, to {names}: must write to {{samples}} and {{state}} alone")
        else:
            print("ok: nothing was written to the folder of the project")
    if faults:
        raise StageError("; ".join(f"model.command: {fault}" for fault in faults))


def _checks(trial: Trial, n: int) -> list[str]:
    """Run the command, print what holds, and return what does not."""
    seed, faults = seed_of(trial.setup, n, 0), []
    begun = time.monotonic()
    first = trial.run("first", seed)
    seconds = time.monotonic() - begun
    print(f"ok: {_count(first)} of type uint8 and shape {first.images.shape}, in {seconds:.1f} s")
    second = trial.run("second", seed_of(trial.setup, n, 1))
    if np.array_equal(first.images, second.images):
        faults.append("another {seed} gives the same images: training and sampling must follow it")
    else:
        print("ok: another seed gives other images")
    stop = Stop()
    timer = threading.Timer(max(seconds / 2, SHORTEST), stop.set)
    timer.start()
    try:
        trial.run("resumed", seed, stop)
    except Interrupted:
        kept = sum(path.is_file() for path in (trial.folder / "resumed").rglob("*"))
        (trial.folder / "resumed.npz").unlink(missing_ok=True)
        begun = time.monotonic()
        try:
            resumed = trial.run("resumed", seed)
        except StageError as error:
            faults.append(f"does not go on after SIGTERM ({str(error).removeprefix('model.command: ')})")
            return faults
        rest = time.monotonic() - begun
        how = f"with {kept} files in {{state}}" if kept else "from its beginning, because {state} was empty"
        same = "the same" if np.array_equal(first.images, resumed.images) else "other"
        print(f"ok: ended by SIGTERM, it went on {how}: {same} images, in {rest:.1f} s")
    else:
        print(f"not checked: it ends within {seconds:.1f} s, too soon to be interrupted")
    finally:
        timer.cancel()
    return faults


def _count(written: Written) -> str:
    snapshots = len(written.images)
    return f"{IMAGES} images" + (f" of {snapshots} snapshots" if snapshots > 1 else "")


def _files() -> dict[str, tuple[int, int]]:
    """Size and time of change (ns) of every file in the working directory, without folders of tools."""
    found = {}
    for folder, inside, names in os.walk("."):
        inside[:] = [name for name in inside if name not in OWN]
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(path := os.path.join(folder, name))
                found[os.path.normpath(path)] = status.st_size, status.st_mtime_ns
    return found
