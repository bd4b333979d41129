"""``emm clean``: results of settings that neither a configuration here nor the tables of another experiment need."""

import contextlib
import csv
import re
import shutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from emmeter.errors import DataError, SettingsError
from emmeter.files import checksums, records
from emmeter.files.layout import ARM_STAGES, EXPERIMENT, RECORDS, RUN_FOLDERS, arm_folder
from emmeter.files.records import EmmRecord, MeasuredRecord
from emmeter.pipeline.index import index_of
from emmeter.pipeline.plan import amount
from emmeter.settings.configuration import load, read
from emmeter.settings.keys import Stage

CONFIGURATIONS = Path("config")
CONFIGURED = ("studies.yaml",)  # read always, so it is no overlay


@dataclass(frozen=True)
class Unused:
    """A folder of one key that no configuration has.

    Attributes:
        files: number of files in it.
        size: their bytes.
    """

    path: Path
    files: int
    size: int


def clean(results: Path, overlays: Sequence[Path] = (), *, yes: bool = False) -> None:
    """List the folders of settings that nothing here needs any more, and delete them if the user agrees.

    Used are the settings of config.yaml, alone, with each overlay in config/, and with `overlays`; of all studies.  An
    experiment that none of these configurations names may belong to an overlay elsewhere: the runs behind its tables
    are used, too, until its folder is deleted.

    Args:
        overlays: files, laid over config.yaml together.
        yes: delete without a question.
    """
    used, own, notes = keys_in_use(results, overlays)
    for folder, keys in experiments(results, own).items():
        if keys - used:
            notes.append(f"{folder}: its configuration is not here; its runs are kept until you delete this folder")
        used |= keys
    folders = unused(results, used)
    for line in notes:
        print(f"note: {line}")
    if not folders:
        print(f"{results}: every folder is needed")
        return
    for folder in folders:
        print(f"{folder.path}  {folder.files} files, {amount(folder.size)}")
    total = amount(sum(folder.size for folder in folders))
    if not yes:
        if not sys.stdin.isatty():
            print(f"{len(folders)} folders, {total}: `emm clean --yes` deletes them")
            return
        if input(f"Delete these {len(folders)} folders, {total}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return
    for folder in folders:
        shutil.rmtree(folder.path)
    print(f"deleted {len(folders)} folders, {total}")


def keys_in_use(results: Path, overlays: Sequence[Path] = ()) -> tuple[set[str], set[Path], list[str]]:
    """Find what the configurations here need.

    Returns:
        Keys of all stages, the folders of the experiments, and one line per overlay that cannot be read.

    Raises:
        SettingsError: config.yaml with `overlays` is wrong.  Then no key is known to be unused.
    """
    used: set[str] = set()
    own: set[Path] = set()
    unread = []

    def add(chosen: Sequence[Path]) -> None:
        settings = read(load(chosen), asked=())
        index = index_of(settings, results, data_needed=False, asked=(), looked=False)
        used.update(key for keys in index.keys.values() for key in keys.values())
        own.add(index.experiment)

    add([])
    if overlays:
        add(overlays)
    for path in sorted(CONFIGURATIONS.glob("*.yaml")):
        if path.name not in CONFIGURED:
            try:
                add([path])
            except SettingsError as error:
                unread.append(f"{path}: cannot be read, so its runs count as unused ({error})")
    return used, own, unread


def experiments(results: Path, own: Collection[Path]) -> dict[Path, set[str]]:
    """Keys of the searches, runs and measures behind the tables of all experiments but `own`, by folder."""
    found: dict[Path, set[str]] = {}
    measured = _measured(results)
    for marker in sorted(results.glob(f"*/{EXPERIMENT}")):
        if marker.parent in own:
            continue
        keys, digests = found.setdefault(marker.parent, set()), set()
        for emm_key in {key for table in marker.parent.glob("*/emm.csv") for key in _searches(table)}:
            keys.add(emm_key)
            with contextlib.suppress(OSError, DataError):  # the search is gone or damaged
                path = arm_folder(results, "emm", emm_key) / RECORDS["emm"]
                keys.update(records.read(path, EmmRecord).get("keys", {}).values())
                digests.add(checksums.sha256(path))
        keys.update(key for key, inputs in measured.items() if digests & inputs)
    return found


def _measured(results: Path) -> dict[str, set[str]]:
    """Digests of the searches that each folder of measures was made from, by key."""
    found = {}
    measures: tuple[Stage, ...] = ("quality", "denoising")
    for stage in measures:
        for path in arm_folder(results, stage).parent.glob(f"*/{RECORDS[stage]}"):
            with contextlib.suppress(OSError, DataError):
                found[path.parent.name] = set(records.read(path, MeasuredRecord)["inputs"].values())
    return found


def _searches(table: Path) -> list[str]:
    """Keys of the searches that a table of a study names."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return [row["key"] for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, csv.Error):
        return []


def unused(results: Path, used: set[str]) -> list[Unused]:
    """Folders of single keys below `results` whose key is not among `used`."""
    parents = [results / name for name in (*RUN_FOLDERS.values(), *ARM_STAGES, "state")]
    folders = []
    for parent in parents:
        for path in sorted(parent.glob("*")):
            if path.is_dir() and re.fullmatch(r"[0-9a-f]{10}", path.name) and path.name not in used:
                sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
                folders.append(Unused(path, len(sizes), sum(sizes)))
    return folders
