"""Audits that the configuration names, as the workflow's rules see them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from emmeter.data.audited import parse_criterion, parse_memory
from emmeter.errors import Fault, SettingsError
from emmeter.settings.audits import AuditText

JOINED = ("redact", "fail_above", "shards")  # options that matter only when the shards are joined


def check(audits: Mapping[str, AuditText]) -> None:
    """Check what the settings alone do not know.

    Raises:
        SettingsError: a criterion or a size of memory is none; one fault each.
    """
    faults = []
    for name, audit in audits.items():
        for key, values, parse in (
            ("criteria", audit.criteria, parse_criterion),
            ("memory", [audit.memory], parse_memory),
        ):
            for value in values:
                try:
                    parse(value)
                except ValueError as error:
                    rule = str(error).removeprefix(f"{value!r}: ")
                    faults.append(Fault(f"audits.{name}.{key}", repr(value), rule))
    if faults:
        raise SettingsError(*faults)


def as_json(audit: AuditText, shard: bool = False) -> str:
    """An audit as its jobs receive it.

    Args:
        shard: whether for a shard, which need not be made again if only the answer is asked in another way.
    """
    content = audit.model_dump(mode="json")
    neutral = AuditText(generated=audit.generated, train=audit.train).model_dump(mode="json") if shard else {}
    return json.dumps(content | {key: neutral[key] for key in JOINED if shard}, sort_keys=True)


def megabytes(audit: AuditText) -> int:
    """Memory that a job of an audit asks a cluster for."""
    return parse_memory(audit.memory) // 10**6


def signature(audit: AuditText) -> str:
    """Sizes and times of the files behind an audit, so that the workflow notices when they change."""
    paths = [audit.generated, audit.train, audit.held_out, audit.features, audit.manifest]
    return " ".join(_state(Path(path)) for path in paths if path is not None)


def _state(path: Path) -> str:
    """Number, bytes and newest time of a file, or of all files below a folder; "missing" if there is none."""
    below = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    files = [path] if path.is_file() else list(below)
    try:
        stats = [file.stat() for file in files]
    except OSError:
        return "missing"
    return f"{len(stats)}/{sum(s.st_size for s in stats)}/{max((s.st_mtime_ns for s in stats), default=0)}"
