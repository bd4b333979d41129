"""Manifests: a CSV or JSONL file with one row per image, and what is known of the image beside its pixels."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emmeter.errors import DataError, reason
from emmeter.files.reading import regular

NOTES = ("group", "label", "prompt", "seed")
SUFFIXES = (".csv", ".jsonl")


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest, in its order."""

    file: Path
    paths: list[str]
    """Path of each image as written."""
    notes: dict[str, list[str]]
    """For each column of NOTES that the manifest has: the value of each image, empty where there is none."""

    def files(self) -> list[Path]:
        """The image files; paths are relative to the folder of the manifest."""
        return [self.file.parent / path for path in self.paths]


def read_manifest(file: Path) -> Manifest:
    """Read a manifest.

    Raises:
        DataError: it cannot be read, has no column `path`, or a row is wrong.  One line per wrong row, of the first 20.
    """
    try:
        regular(file)
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise DataError(f"{file}: must be UTF-8 text") from None
    rows = _json_rows(file, text) if file.suffix.lower() == ".jsonl" else _csv_rows(file, text)
    if not rows:
        raise DataError(f"{file}: has no rows")
    columns = [name for name in NOTES if any(name in row for _, row in rows)]
    faults, seen = [], {}
    for line, row in rows:
        path = row.get("path", "")
        if not path or "\0" in path:
            faults.append(f"{file}: line {line} names no image; give it a path")
        elif path in seen:
            faults.append(f"{file}: line {line} names {path} again (line {seen[path]}); remove one of them")
        seen.setdefault(path, line)
    if faults:
        raise DataError(*faults[:20])
    return Manifest(
        file, [row["path"] for _, row in rows], {name: [row.get(name, "") for _, row in rows] for name in columns}
    )


def _csv_rows(file: Path, text: str) -> list[tuple[int, dict[str, str]]]:
    """Lines and cells of a CSV table.  Raises DataError if it is no table with a column `path`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"{file}: line {reader.line_num} is not CSV ({error})") from None
    if "path" not in header:
        known = ", ".join(header) or "nothing"
        raise DataError(f"{file}: must have a column path (others are {', '.join(NOTES)}); its header is {known}")
    if len(set(header)) != len(header):
        raise DataError(f"{file}: has two columns of one name")
    if wrong := [f"{file}: line {line} has {len(row)} cells, the header {len(header)}"
                 for line, row in rows if len(row) != len(header)]:  # fmt: skip
        raise DataError(*wrong[:20])
    return [(line, dict(zip(header, row, strict=True))) for line, row in rows]


def _json_rows(file: Path, text: str) -> list[tuple[int, dict[str, str]]]:
    """Lines and values of a JSONL file.  Raises DataError if a line is no object."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}: line {number} is not JSON ({reason(error)})") from None
        if not isinstance(content, dict):
            raise DataError(f'{file}: line {number} must be an object such as {{"path": "a.png"}}')
        rows.append((number, {str(key): _text(value) for key, value in content.items()}))
    return rows


def _text(value: Any) -> str:
    """A value as a cell of a table: texts as they are, null as an empty cell, others as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
