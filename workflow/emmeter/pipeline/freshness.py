"""What Snakemake's own records and times do not tell of results that were made from the user's own images.

Snakemake makes again what is older than its input.  A copy of a project sets all times anew, in any order, so after an
interrupted run what was made from the images of before may look newer than the subset of the images of now.  The
records of the stages name the content that they were made from, and decide.
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
from emmeter.files.layout import RECORDS, emm_folder, run_folder
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
    """Make each record that tells of another content of its inputs older than these, and return these records.

    Their times decide, as for all of Snakemake, when it makes them again; nothing is made newer than it is.
    """
    aged = []
    for path, record in _outdated(index):
        with contextlib.suppress(OSError):  # where results cannot be written, nothing will be made again either
            before = path.stat().st_mtime_ns
            if before <= record.stat().st_mtime_ns:
                os.utime(record, ns=(before - 10**9, before - 10**9))
                aged.append(record)
    return aged


def _outdated(index: Index) -> Iterator[tuple[Path, Path]]:
    """Files that were made from the user's own images, and records of stages that used another content of them."""
    for stage, key in index.setups:
        if not index.has_own_images(stage, key):
            continue
        if stage == "emm":
            yield from _uncounted(index, key)
        for folder in _folders(index, stage, key) if stage in INPUTS else ():
            record = folder / RECORDS[stage]
            inputs = _json(record).get("inputs")
            for name, before in INPUTS[stage].items():
                digest = inputs.get(name) if isinstance(inputs, dict) else None
                earlier = run_folder(index.results, before, index.upstream(stage, key, before)).parents[1]
                there = earlier / folder.parts[-2] / folder.parts[-1]
                if digest and _recorded(there).get(name, digest) != digest:
                    yield there / name, record


def _uncounted(index: Index, key: str) -> Iterator[tuple[Path, Path]]:
    """Scores whose counts are not those in the record of their search."""
    record = emm_folder(index.results, key) / RECORDS["emm"]
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
    except (DataError, OSError):  # its reader will tell
        return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def adopt(index: Index, metadata: Path) -> None:
    """Let Snakemake know the signature of own images for subsets that it made when it followed times and sizes.

    They are taken for made from the present images where the earlier rule says so, so that nothing is made again.

    Args:
        metadata: the folder in which Snakemake keeps a record for each file.
    """
    for stage, key in index.setups:
        if stage != "subset" or not index.has_own_images(stage, key):
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
                dated = [file for file in files if file.suffix != ".npz"]  # the sums of an .npz are proof enough
                if same and all(file.stat().st_mtime_ns <= output.stat().st_mtime_ns for file in dated):
                    params = [repr(index.data_signature(key)) if one == repr(old) else one for one in record["params"]]
                    changed = {"input": [], "params": sorted(params), "input_checksums": {}}
                    write_text(path, json.dumps(record | changed))


def _earlier(index: Index, key: str) -> tuple[list[Path], str]:
    """The files that were inputs of a subset, and the parameter, before the content of all images was followed."""
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
            path = max(images, key=lambda one: (one[1].st_mtime_ns, one[0]))[0]
        files.append(path)
        digests.append(digest.hexdigest()[:16])
    return files, " ".join(digests)
