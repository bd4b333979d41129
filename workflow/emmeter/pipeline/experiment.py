"""Experiments: tables that belong together, in a folder of their own beside the runs that all experiments share.

A configuration names its experiment.  EMMs of other images, or under another criterion, do not belong into the same
tables.  So the folder of an experiment holds a record of both.  A configuration of this name that differs in them gets
another folder, whose name tells the difference, such as ``digits-epsilon-0.2``.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emmeter.files.layout import EXPERIMENT
from emmeter.settings.sections import Setup

MEANING = {  # what all EMMs of an experiment have in common, by section
    "data": ("source", "resolution", "fit", "classes", "mixture"),
    "scoring": ("threshold", "mirrored", "distinct", "snapshot"),
    "search": ("epsilon",),
}


def meaning(base: Setup) -> dict[str, Any]:
    """What all EMMs of an experiment with these base settings have in common, by dotted name."""
    dumped = json.loads(base.model_dump_json())
    return {f"{section}.{name}": dumped[section][name] for section, names in MEANING.items() for name in names}


def folder(results: Path, name: str, base: Setup) -> Path:
    """Folder of the tables of an experiment: <results>/<name>, or one whose name tells how it differs from that.

    Args:
        results: the folder of all results.
        name: of the configuration.
        base: its base settings.
    """
    wanted = meaning(base)
    first = results / name
    recorded = _recorded(first)
    if recorded is None or recorded == wanted:
        return first
    told = first.with_name("-".join([name, *_differences(recorded, wanted)]))
    number, chosen = 1, told
    while _recorded(chosen) not in (None, wanted):
        number += 1
        chosen = told.with_name(f"{told.name}-{number}")
    return chosen


def notice(chosen: Path, name: str) -> str | None:
    """A line for the user if an experiment is not stored under its own name; None if it is."""
    if chosen.name == name:
        return None
    return (
        f"note: {chosen.with_name(name)} holds tables of other images, or under another criterion; those of this "
        f"configuration are stored in {chosen}; `name` in the configuration chooses another folder"
    )


def others(results: Path, chosen: Path) -> list[str]:
    """Names of the other experiments that have tables."""
    return sorted(path.parent.name for path in results.glob(f"*/{EXPERIMENT}") if path.parent != chosen)


def _recorded(path: Path) -> Mapping[str, Any] | None:
    """The record in a folder; None if there is none."""
    try:
        content = json.loads((path / EXPERIMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _differences(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One word per setting that differs, fit for the name of a folder."""
    words = []
    for dotted, value in wanted.items():
        if recorded.get(dotted) != value:
            name = dotted.partition(".")[2]
            if name == "source":
                text = Path(value.partition(":")[2]).stem or value
            elif name == "resolution":
                text = f"{value}x{value}" if value else "full-size"
            else:
                values = value if isinstance(value, list) else [value]
                text = "-".join([name, *(f"{each:.4g}" if isinstance(each, float) else str(each) for each in values)])
            words.append(re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or name)
    return words
