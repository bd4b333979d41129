"""``emm audit``: whether generated images, of any model, are copies of its training images."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from emmeter.commands.present import named, present
from emmeter.data.audited import Input, Options
from emmeter.errors import StageError, printable
from emmeter.files.layout import run_folder
from emmeter.measure.audit import Answer
from emmeter.measure.outcome import RunId
from emmeter.presentation.audit_words import lines
from emmeter.settings.keys import Stage, key
from emmeter.stages.audit import audit, write

STATUS: dict[Answer, int] = {"below": 0, "above": 1, "undecided": 2}
FAILURE = 2  # exit status if the images cannot be compared


def run(
    generated: str,
    train: Path | None,
    held_out: Path | None,
    options: Options,
    output: Path,
    *,
    redact: bool,
    results: Path,
    overlays: Sequence[Path],
) -> int:
    """Audit, write all files, and print what was found.

    Args:
        generated: path of the generated images, or STUDY/ARM[/nN/rR] of our own results.
        train: path of the training images; None for our own results, which know theirs.
        held_out: path of images that the model was not trained on, if there are any.
        output: folder of the results.
        redact: whether names and pictures are left out.
        results: folder of our own results.
        overlays: overlays of the configuration, for our own results.
    Returns:
        The exit status: 0 if copies are below the limit, 1 if they are above it, 2 if the interval contains it.
    Raises:
        StageError, DataError, SettingsError, OSError: the images cannot be compared.
    """
    inputs = _inputs(generated, train, held_out, results, overlays)
    with _folder(output):
        audited = audit(*inputs, options, spool=output, progress=bar)
        write(audited, output, redact=redact)
    for images in (audited.generated, audited.train, audited.held_out):
        if images is not None and images.ignored and not redact:
            plural = "s that are no images" if images.ignored > 1 else " that is no image"
            print(printable(f"note: {images.path}: ignored {images.ignored} file{plural}"), file=sys.stderr)
    print("\n".join(map(printable, lines(audited, redact))))
    return STATUS[audited.result.answer]


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make the folder of the results before any image is read; remove it if the block fails without a result.

    Raises:
        StageError: a file has the name of the folder.
    """
    if path.exists() and not path.is_dir():
        raise StageError(f"{path}: is a file; name a folder by -o")
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):  # it holds results
                path.rmdir()
        raise


def _inputs(
    generated: str, train: Path | None, held_out: Path | None, results: Path, overlays: Sequence[Path]
) -> tuple[Input, Input, Input | None]:
    """The sets of images that the arguments name."""
    held = None if held_out is None else Input(held_out)
    if Path(generated).exists() or not re.fullmatch(r"[\w-]+/[^/]+(/n\d+/r\d+)?", generated):
        if train is None:
            raise StageError("--train: name the images that the model was trained on")
        return Input(Path(generated)), Input(train), held
    folder, stored = _own_run(generated, results, overlays)
    subset = folder["subset"] / "subset.npz"
    if held is None and stored:
        held = Input(subset, "held_out")
    return Input(folder["sample"] / "samples.npz"), Input(train) if train else Input(subset, "images"), held


def _own_run(text: str, results: Path, overlays: Sequence[Path]) -> tuple[dict[str, Path], bool]:
    """Folders of the stages `subset` and `sample` of a run of ours, and whether it has held-out images.

    Args:
        text: STUDY/ARM/nN/rR, or STUDY/ARM, which stands for the run of the arm with the most training images.
    Raises:
        StageError: there is no such study, arm or finished run.
    """
    name, _, numbers = text.partition("/n") if re.search(r"/n\d+/r\d+$", text) else (text, "", "")
    index = present(results, overlays)
    (arm,) = named(index, name).arms
    runs = sorted(index.finished(key("emm", arm.setup)), key=lambda run: (run.n, -run.replicate))
    if not runs:
        raise StageError(f"{name}: has no finished run; run `snakemake {name.split('/')[0]}`")
    chosen = RunId(*map(int, numbers.split("/r"))) if numbers else runs[-1]
    if chosen not in runs:
        listed = ", ".join(f"n{run.n}/r{run.replicate}" for run in runs)
        raise StageError(f"{text}: is not a finished run; there are {listed}")
    if not numbers:
        run_name = f"{name}/n{chosen.n}/r{chosen.replicate}"
        print(f"note: {run_name} is audited, of {len(runs)} runs that with the most images", file=sys.stderr)
    stages: tuple[Stage, ...] = ("subset", "sample")
    folders: dict[str, Path] = {
        stage: run_folder(index.results, stage, key(stage, arm.setup), chosen.n, chosen.replicate) for stage in stages
    }
    return folders, arm.setup.data.held_out > 0


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with the time that is left, if standard error is a terminal."""
    from tqdm import tqdm

    with tqdm(desc=title, total=total, unit_scale=True, disable=None, leave=False) as shown:

        def tick(count: int) -> None:
            shown.update(count)

        yield tick
