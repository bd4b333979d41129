"""``emm list``: the studies, what each varies, and how many of its runs exist."""

from collections.abc import Sequence
from pathlib import Path

from emmeter.commands.present import present
from emmeter.measure.search import replay
from emmeter.pipeline.costs import Assumed
from emmeter.pipeline.index import Index
from emmeter.presentation.tables import aligned
from emmeter.settings.keys import key
from emmeter.settings.studies import Study
from emmeter.training.schedule import budget

HEADINGS = ("study", "title", "source", "arms", "runs done", "of about", "images to train")


def listing(results: Path, overlays: Sequence[Path] = ()) -> None:
    """Print one row per study: title, source, arms, runs done of about how many, and training images still to be seen.

    Runs that several studies share count in each.  `emm plan` counts them once, and estimates the time.
    """
    index = present(results, overlays)
    rows = [_row(index, study) for study in index.settings.studies]
    print(aligned([list(HEADINGS), *rows]))
    print("\n* made by `snakemake` without a target; the others by their names: snakemake STUDY")
    for study in index.settings.studies:
        if faults := index.faults([study.name]):
            print(f"{study.name} cannot run here: {'; '.join(map(str, faults))}")


def _row(index: Index, study: Study) -> list[str]:
    mark = " *" if study.name in index.settings.selected else ""
    head = [study.name + mark, study.title, study.source]
    if index.faults([study.name]):
        return [*head, "", "cannot run", "", ""]
    runs, done, images, external = 0, 0, 0, False
    counted = set()
    for arm in study.arms:
        emm_key, counts = key("emm", arm.setup), index.finished(key("emm", arm.setup))
        for run in replay(arm.setup.search, index.sizes[emm_key], Assumed(arm.setup, counts)).runs:
            identity = (key("score", arm.setup), run)
            if identity in counted:
                continue
            counted.add(identity)
            runs, done = runs + 1, done + (run in counts)
            if run not in counts and arm.setup.kind == "network":
                images += budget(arm.setup, run.n).images
            external = external or (run not in counts and arm.setup.kind == "command")  # only the command knows
    to_train = f"{images:,.0f}{' + ?' if external else ''}" if images or not external else "?"
    return [*head, str(len(study.arms)), str(done), str(runs), to_train]
