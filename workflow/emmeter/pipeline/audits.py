"""Audits that the configuration names, as the workflow's rules see them."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emmeter.data.audited import parse_criterion, parse_memory
from emmeter.errors import Fault, SettingsError
from emmeter.pipeline.paths import Paths
from emmeter.settings.audits import OWN_RUN, AuditText
from emmeter.settings.keys import key
from emmeter.settings.validation import expected

JOINED = ("redact", "fail_above", "shards")  # options that matter only when the shards are joined


@dataclass(frozen=True)
class Audit:
    """An audit of the configuration, with paths in the place of a run of a study."""

    text: AuditText
    made: Sequence[str] = ()
    """Files of the run of a study, as rules name them."""
    stored: Sequence[str] = ()
    """The same files on the disk."""
    held_out_array: str | None = None
    """Name of the array of held-out images in their file; None for the usual ones."""


def resolved(audits: Mapping[str, AuditText], paths: Paths) -> dict[str, Audit]:
    """The audits of the configuration by name, checked for what the settings alone do not know.

    Raises:
        SettingsError: a criterion or a size of memory is none, or there is no such study, arm or size; one fault each.
    """
    faults = []
    found = {}
    for name, audit in audits.items():
        for setting, values, parse in (
            ("criteria", audit.criteria, parse_criterion),
            ("memory", [audit.memory], parse_memory),
        ):
            for value in values:
                try:
                    parse(value)
                except ValueError as error:
                    rule = str(error).removeprefix(f"{value!r}: ")
                    faults.append(Fault(f"audits.{name}.{setting}", repr(value), rule))
        try:
            found[name] = _resolved(audit, paths)
        except ValueError as error:
            faults.append(Fault(f"audits.{name}.generated", repr(audit.generated), str(error)))
    if faults:
        raise SettingsError(*faults)
    return found


def _resolved(audit: AuditText, paths: Paths) -> Audit:
    """An audit with the paths of the run that it names.  Raises ValueError if there can be no such run."""
    match = OWN_RUN.fullmatch(audit.generated)
    if match is None or Path(audit.generated).exists():
        return Audit(audit)
    index, n, replicate = paths.index, match["n"], str(int(match["replicate"]))
    studies = {study.name: study for study in index.settings.studies}
    if match["study"] not in studies:
        raise ValueError(expected(match["study"], list(studies), "a study, or a path that exists"))
    arms = {arm.name: arm.setup for arm in studies[match["study"]].arms}
    if match["arm"] not in arms:
        raise ValueError(expected(match["arm"], list(arms), f"an arm of {match['study']}"))
    if reasons := index.impossible.get(match["study"]):
        raise ValueError(f"this study cannot run here ({reasons[0]})")
    setup = arms[match["arm"]]
    multiple, available = index.usable[key("emm", setup)]
    if int(n) % multiple or int(n) > available:
        raise ValueError(f"n{n} must be a multiple of {multiple}, and at most {available}")
    samples = paths.run("sample", "samples.npz", key("sample", setup), n, replicate)
    subset = paths.run("subset", "subset.npz", key("subset", setup), n, replicate)
    on_disk = [str(index.results / Path(path).relative_to(paths.results)) for path in (samples, subset)]
    own_held_out = audit.held_out is None and setup.data.held_out > 0
    text = audit.model_copy(
        update={
            "generated": on_disk[0],
            "train": audit.train or on_disk[1],
            "held_out": on_disk[1] if own_held_out else audit.held_out,
        }
    )
    return Audit(text, (samples, subset), on_disk, "held_out" if own_held_out else None)


def as_json(audit: Audit, shard: bool = False) -> str:
    """An audit as its jobs receive it.

    Args:
        shard: whether for a shard, which need not be made again if only the answer is asked in another way.
    """
    content = audit.text.model_dump(mode="json")
    if audit.held_out_array is not None:
        content["held_out_array"] = audit.held_out_array
    neutral = AuditText(generated="g", train="t").model_dump(mode="json") if shard else {}
    return json.dumps(content | {key: neutral[key] for key in JOINED if shard}, sort_keys=True)


def megabytes(audit: Audit) -> int:
    """Memory that a job of an audit asks a cluster for."""
    return parse_memory(audit.text.memory) // 10**6


def signature(audit: Audit) -> str:
    """Sizes and times of the files behind an audit, so that the workflow notices when they change.

    Files of a run of a study are inputs of the rules, which notice changes by themselves.
    """
    text = audit.text
    paths = [text.generated, text.train, text.held_out, text.features, text.manifest]
    return " ".join(_state(Path(path)) for path in paths if path is not None and path not in audit.stored)


def _state(path: Path) -> str:
    """Number, bytes and newest time of a file, or of all files below a folder; "missing" if there is none."""
    below = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    files = [path] if path.is_file() else list(below)
    try:
        stats = [file.stat() for file in files]
    except OSError:
        return "missing"
    return f"{len(stats)}/{sum(s.st_size for s in stats)}/{max((s.st_mtime_ns for s in stats), default=0)}"
