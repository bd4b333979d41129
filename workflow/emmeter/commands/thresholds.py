"""``emm rescore``: copies and EMM under other thresholds of the criterion, from stored distances."""

from collections.abc import Sequence
from pathlib import Path

from emmeter.commands.present import named, present
from emmeter.errors import StageError
from emmeter.files import records
from emmeter.files.layout import run_folder
from emmeter.files.records import EmmRecord
from emmeter.files.scores import read_neighbours
from emmeter.measure.arms import ArmResult, fit_prior
from emmeter.measure.criterion import memorized
from emmeter.measure.outcome import Count, RunId
from emmeter.pipeline.description import description
from emmeter.pipeline.index import Index
from emmeter.presentation.tables import aligned, answer
from emmeter.settings.keys import key
from emmeter.settings.studies import Study

THRESHOLDS = (0.2, 0.25, 1 / 3, 0.4, 0.5)


def rescore_run(neighbours: Path, thresholds: Sequence[float] = THRESHOLDS, *, duplicates: bool = False) -> None:
    """Print the memorization ratio of each snapshot of one run under other thresholds.

    Args:
        neighbours: the run's neighbours.npz.
        duplicates: the paper's rule: an exact duplicate of the nearest image is a second neighbour.
    """
    snapshots = read_neighbours(neighbours)
    print("threshold  " + "  ".join(f"snapshot {i}" for i in range(len(snapshots))))
    for value in thresholds:
        ratios = [memorized(snapshot, value, not duplicates).mean() for snapshot in snapshots]
        print(f"{value:<9.4g}  " + "  ".join(f"{ratio:<{len('snapshot 0')}.4f}" for ratio in ratios))


def rescore_study(
    results: Path,
    text: str,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    duplicates: bool = False,
    overlays: Sequence[Path] = (),
) -> None:
    """Print EMM of each arm of a study under other thresholds, from the runs that exist.

    No run is added.  Runs were made around the crossing under the study's own threshold, so EMM under another one may
    lie beyond them; such an estimate carries a note.

    Args:
        text: STUDY, or STUDY/ARM.
        duplicates: the paper's rule: an exact duplicate of the nearest image is a second neighbour.
    Raises:
        StageError: there is no such study, or an arm's search has not finished.
    """
    index = present(results, overlays)
    asked = named(index, text)
    arms = _finished(index, asked.study)
    prior = fit_prior(arms)
    rows, notes = [["arm", "threshold", "EMM", "95 % interval", "mean ratio"]], []
    for arm in arms:
        if arm.name not in {each.name for each in asked.arms}:
            continue
        for value in thresholds:
            counts = _counts(index, asked.study, arm, value, duplicates)
            estimate = arm.estimate(prior, counts)
            row = {"status": estimate.status, "emm": estimate.emm, "emm_low": estimate.low, "emm_high": estimate.high}
            filled = {name: float("nan") if cell is None else cell for name, cell in row.items()}
            mean = sum(count.ratio for count in counts.values()) / len(counts)
            rows.append([arm.name, f"{value:.4g}", *answer(filled), f"{mean:.3f}"])
            if estimate.note:
                notes.append(f"{arm.name} at {value:.4g}: {estimate.note}")
    print(aligned(rows))
    print(f"\n{len(arms)} finished arms; no run was added. EMM far from the runs of an arm is extrapolated.")
    if notes:
        print("\n".join(notes))


def _finished(index: Index, study: Study) -> list[ArmResult]:
    """The arms of a study with their records."""
    described = description(index, study.name)["arms"]
    found = []
    for about, path in zip(described, index.emm_files(study.name), strict=True):
        if not path.is_file():
            raise StageError(f"{study.name}/{about['name']}: its search has not finished; run `snakemake {study.name}`")
        found.append(ArmResult(about, records.read(path, EmmRecord)))
    return found


def _counts(index: Index, study: Study, arm: ArmResult, threshold: float, duplicates: bool) -> dict[RunId, Count]:
    """Counts of an arm's runs under another threshold, at the snapshot that enters the search."""
    setup = next(each.setup for each in study.arms if each.name == arm.name)
    counts = {}
    for run in arm.trail.runs:
        folder = run_folder(index.results, "score", key("score", setup), run.n, run.replicate)
        snapshots = [memorized(each, threshold, not duplicates) for each in read_neighbours(folder / "neighbours.npz")]
        chosen = snapshots[-1] if setup.scoring.snapshot == "last" else max(snapshots, key=lambda copies: copies.mean())
        counts[run] = Count(int(chosen.sum()), len(chosen))
    return counts
