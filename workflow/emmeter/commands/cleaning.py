"""``emm clean``: results of settings that no configuration here has any more."""

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emmeter.errors import SettingsError
from emmeter.files.layout import RUN_FOLDERS, emm_folder, quality_folder
from emmeter.pipeline.index import index_of
from emmeter.pipeline.plan import amount
from emmeter.settings.configuration import load, read

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
    """List the folders of settings that no configuration here has, and delete them if the user agrees.

    Used are the settings of config.yaml, alone, with each overlay in config/, and with `overlays`; of all studies.

    Args:
        overlays: files, laid over config.yaml together.
        yes: delete without a question.
    """
    used, unread = keys_in_use(results, overlays)
    folders = unused(results, used)
    for line in unread:
        print(f"note: {line}")
    if not folders:
        print(f"{results}: every folder belongs to a configuration here")
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


def keys_in_use(results: Path, overlays: Sequence[Path] = ()) -> tuple[set[str], list[str]]:
    """Keys of all stages that a configuration here has, and one line per overlay that cannot be read.

    Raises:
        SettingsError: config.yaml with `overlays` is wrong.  Then no key is known to be unused.
    """
    used: set[str] = set()
    unread = []

    def add(chosen: Sequence[Path]) -> None:
        settings = read(load(chosen), asked=())
        index = index_of(settings, results, data_needed=False, asked=(), looked=False)
        used.update(key for keys in index.keys.values() for key in keys.values())

    add([])
    if overlays:
        add(overlays)
    for path in sorted(CONFIGURATIONS.glob("*.yaml")):
        if path.name not in CONFIGURED:
            try:
                add([path])
            except SettingsError as error:
                unread.append(f"{path}: cannot be read, so its runs count as unused ({error})")
    return used, unread


def unused(results: Path, used: set[str]) -> list[Unused]:
    """Folders of single keys below `results` whose key is not among `used`."""
    parents = [results / name for name in RUN_FOLDERS.values()] + [
        emm_folder(results).parent,
        quality_folder(results).parent,
        results / "state",
    ]
    folders = []
    for parent in parents:
        for path in sorted(parent.glob("*")):
            if path.is_dir() and re.fullmatch(r"[0-9a-f]{10}", path.name) and path.name not in used:
                sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
                folders.append(Unused(path, len(sizes), sum(sizes)))
    return folders
