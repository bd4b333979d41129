"""Results from the user's own images that are out of date, although Snakemake's records and times do not show it.

Snakemake repeats a job if an output is older than an input.  Copying a project gives all files new times, in any order.
So if a run was interrupted after the images had changed, results from the old images may look newer than the subset of
the new ones.  The records of the stages name the content of their inputs; here these records decide.
"""

import contextlib
import hashlib
import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emmeter.data import own
from emmeter.errors import DataError
from emmeter.files import checksums
from emmeter.files.layout import RECORDS, arm_folder, run_folder
from emmeter.files.writing import write_text
from emmeter.pipeline.index import Index
from emmeter.settings import sources
from emmeter.settings.keys import Stage

INPUTS: dict[Stage, dict[str, Stage]] = {
    "train": {"subset.npz": "subset"},
    "sample": {"subset.npz": "subset", "snapshots.safetensors": "train"},
    "score": {"subset.npz": "subset", "samples.npz": "sample"},
}


def age(index: Index) -> list[Path]:
    """Make records that name other inputs than the present ones older than these, so that Snakemake repeats their jobs.

    No time is set to a later one.

    Returns:
        the records whose times were changed.
    """
    aged = []
    for path, record in _outdated(index):
        with contextlib.suppress(OSError):  # if results cannot be written, no job can be repeated either
            time = path.stat().st_mtime_ns
            if time <= record.stat().st_mtime_ns:
                os.utime(record, ns=(time - 10**9, time - 10**9))
                aged.append(record)
    return aged


def _outdated(index: Index) -> Iterator[tuple[Path, Path]]:
    """Yield files that depend on the user's own images, each with the record of a stage that used other content."""
    for stage, key in index.setups:
        if not index.has_own_data(stage, key):
            continue
        if stage == "emm":
            yield from _uncounted(index, key)
        for folder in _folders(index, stage, key) if stage in INPUTS else ():
            record = folder / RECORDS[stage]
            inputs = _json(record).get("inputs")
            for name, before in INPUTS[stage].items():
                digest = inputs.get(name) if isinstance(inputs, dict) else None
                source_key = index.upstream(stage, key, before)
                source = run_folder(index.results, before, source_key).parents[1] / folder.parts[-2] / folder.parts[-1]
                if digest and _recorded(source).get(name, digest) != digest:
                    yield source / name, record


def _uncounted(index: Index, key: str) -> Iterator[tuple[Path, Path]]:
    """Yield scores whose counts differ from those in the record of their search, with this record."""
    record = arm_folder(index.results, "emm", key) / RECORDS["emm"]
    score_key = index.upstream("emm", key, "score")
    runs = _json(record).get("runs")
    for run in runs if isinstance(runs, list) else ():
        with contextlib.suppress(KeyError, TypeError):  # a damaged record
            path = run_folder(index.results, "score", score_key, run["n"], run["replicate"]) / RECORDS["score"]
            if _json(path).get("snapshots", run["snapshots"]) != run["snapshots"]:
                yield path, record


def _folders(index: Index, stage: Stage, key: str) -> list[Path]:
    return sorted(run_folder(index.results, stage, key).parents[1].glob("n*/r*"))


def _recorded(folder: Path) -> dict[str, str]:
    try:
        return checksums.recorded(folder) or {}
    except (DataError, OSError):  # the stage that reads the folder reports it
        return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def adopt(index: Index, metadata: Path) -> None:
    """Add the signature of own images to Snakemake's records of subsets from earlier versions of the workflow.

    Earlier versions compared times and sizes of the images.  If these show that a subset is up to date, its record is
    changed as if the present version had made it, so that Snakemake does not make the subset again.

    Args:
        metadata: the folder in which Snakemake stores one record per file.
    """
    for stage, key in index.setups:
        if stage != "subset" or not index.has_own_data(stage, key):
            continue
        for folder in _folders(index, "subset", key):
            output = folder / "subset.npz"
            path = metadata / urlsafe_b64encode(os.fsencode(output)).decode()
            record = _json(path)
            if not record.get("input") or not output.is_file():
                continue
            with contextlib.suppress(OSError, DataError):
                files, old = _earlier(index, key)
                same = record["input"] == sorted(map(str, files)) and repr(old) in record.get("params", [])
                dated = [file for file in files if file.suffix != ".npz"]  # the parameter covers the content of an .npz
                if same and all(file.stat().st_mtime_ns <= output.stat().st_mtime_ns for file in dated):
                    new = repr(index.data_signature(key))
                    params = [new if param == repr(old) else param for param in record["params"]]
                    changed = {"input": [], "params": sorted(params), "input_checksums": {}}
                    write_text(path, json.dumps(record | changed))


def _earlier(index: Index, key: str) -> tuple[list[Path], str]:
    """Input files and data parameter that earlier versions of the workflow gave to Snakemake for a subset."""
    files, digests = [], []
    for source in index.setups["subset", key].data.sources:
        if not sources.is_own(source):
            continue
        path = sources.own_path(source)
        if source.startswith("npz:"):
            size = path.stat().st_size
            digest = hashlib.sha256(str(size).encode())
            with path.open("rb") as file:
                file.seek(max(size - 65_536, 0))
                digest.update(file.read())
        else:
            images = [(image, image.stat()) for image in own.folder_files(path)[0]]
            digest = hashlib.sha256()
            for image, status in images:
                digest.update(os.fsencode(f"{image.relative_to(path)}\0{status.st_size}\0"))
            path = max((status.st_mtime_ns, image) for image, status in images)[1]
        files.append(path)
        digests.append(digest.hexdigest()[:16])
    return files, " ".join(digests)
