"""``emm show STUDY/ARM``: the settings of an arm, its runs and where their files are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emmeter.commands.present import named, present
from emmeter.files.layout import arm_folder, run_folder
from emmeter.pipeline.index import Index
from emmeter.presentation.tables import aligned
from emmeter.settings.keys import key
from emmeter.settings.sections import Setup
from emmeter.settings.studies import Arm, Study
from emmeter.settings.types import Section
from emmeter.stages.emm import run_keys


def show(results: Path, text: str, overlays: Sequence[Path] = ()) -> None:
    """Print the arms of STUDY, or settings, runs and folders of STUDY/ARM.

    Raises:
        StageError: there is no such study or arm.
    """
    index = present(results, overlays)
    asked = named(index, text)
    if "/" not in text:
        print(f"{asked.study.name}: {asked.study.title} ({asked.study.source or 'no source'})\n")
        print(_arms(index, asked.study))
        print(f"\nemm show {asked.study.name}/ARM shows the runs of one arm")
        return
    for arm in asked.arms:
        print(f"{asked.study.name}/{arm.name}\n")
        print(_settings(index.settings.base, arm.setup) + "\n")
        print(_runs(index, arm) + "\n")
        print(_folders(index, arm))


def _arms(index: Index, study: Study) -> str:
    rows = [["arm", "differs from the base settings by", "runs", "state"]]
    for arm in study.arms:
        changes = ", ".join(f"{name}: {value}" for name, value in changed(index.settings.base, arm.setup).items())
        counts = index.finished(key("emm", arm.setup))
        done = (arm_folder(index.results, "emm", key("emm", arm.setup)) / "emm.json").is_file()
        state = "finished" if done else "under way" if counts else "not begun"
        rows.append([arm.name, changes or "nothing", str(len(counts)), state])
    return aligned(rows)


def changed(base: Setup, setup: Setup) -> dict[str, Any]:
    """Settings of `setup` that differ from `base`, by dotted name."""
    theirs = leaves(base)
    return {name: value for name, value in leaves(setup).items() if value != theirs[name]}


def leaves(section: Section, prefix: str = "") -> dict[str, Any]:
    """Values of all settings of a section and of the sections inside it, by dotted name."""
    values: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        values |= leaves(value, f"{prefix}{name}.") if isinstance(value, Section) else {f"{prefix}{name}": value}
    return values


def _settings(base: Setup, setup: Setup) -> str:
    changes = changed(base, setup)
    rows = [["setting", "value", ""]]
    for dotted, value in leaves(setup).items():
        if setup.kind == "command" and dotted.partition(".")[0] in ("network", "diffusion", "training"):
            continue  # of the pipeline's own networks
        rows.append([dotted, str(value), "<- differs from the base settings" if dotted in changes else ""])
    return aligned(rows)


def _runs(index: Index, arm: Arm) -> str:
    counts = index.finished(key("emm", arm.setup))
    if not counts:
        return "no finished run yet"
    rows = [["N", "replicate", "near copies", "of", "ratio"]]
    for run, count in sorted(counts.items(), key=lambda item: (item[0].n, item[0].replicate)):
        rows.append([str(run.n), str(run.replicate), str(count.memorized), str(count.images), f"{count.ratio:.3f}"])
    return aligned(rows)


def _folders(index: Index, arm: Arm) -> str:
    rows = [["stage", "folder"]]
    for stage, name in run_keys(arm.setup).items():
        rows.append([stage, str(run_folder(index.results, stage, name, "<N>", "<r>"))])
    return aligned([*rows, ["emm", str(arm_folder(index.results, "emm", key("emm", arm.setup)))]])
