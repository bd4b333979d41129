"""``emm check``: the configuration, before anything runs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from emmeter.errors import SettingsError
from emmeter.machine import gpus
from emmeter.pipeline.index import index_of
from emmeter.settings.configuration import load, read


def check(results: Path, overlays: Sequence[Path] = ()) -> None:
    """Validate the configuration, with the overlays in order, and list its studies and their arms.

    For your own images, the command reads the head of every file, prints what they hold and names every faulty file.

    Raises:
        SettingsError: the configuration is wrong, or a selected study cannot run here; one line per fault.
    """
    settings = read(load(overlays))
    index = index_of(settings, results, asked=())
    if faults := [*index.faults(settings.selected), *gpus.missing(settings.execution, sys.executable)]:
        raise SettingsError(*faults)
    gpus.devices(settings.execution)
    reasons = {study.name: index.faults([study.name]) for study in settings.studies}
    print("".join(f"{line}\n" for line in index.portraits(reasons)), end="")
    for study in settings.studies:
        mark = " *" if study.name in settings.selected else ""
        print(f"{study.name}{mark}: {', '.join(arm.name for arm in study.arms)}")
        for line in reasons[study.name]:
            print(f"  cannot run here: {line}")
    for line in index.notices(settings.selected):
        print(f"note: {line}")
    count = len(settings.selected)
    studies = "study" if count == 1 else "studies"
    print(f"ok: {count} {studies} (marked *) without a fault; tables and page go to {index.experiment}/")
