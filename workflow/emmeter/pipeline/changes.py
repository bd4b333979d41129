"""What a start of the workflow would do, and why: one sentence per study, for dry runs and for the beginning of a run.

The scores that exist say which runs are kept.  The tables of the last run name the search of each arm, and the settings
beside it say what has changed since.
"""

import csv
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import yaml

from emmeter.files.layout import FILES, SETTINGS, arm_folder, run_folder
from emmeter.pipeline.course import Course
from emmeter.pipeline.index import Index
from emmeter.settings.keys import key, stage_settings

NAMED = 3  # changed settings and arms that a sentence names


def sentences(course: Course, studies: Iterable[str]) -> list[str]:
    """One sentence per requested study: how many runs are kept and how many are to be made in which arms, and why.

    Such as "conditioning: epsilon changed from 0.1 to 0.2: 14 runs are kept, about 6 are to be made in 2 arms (a, b)".
    """
    lines = []
    for name in studies:
        if name in course.index.impossible:
            continue
        survey = course.survey([name])
        runs, arms = survey.runs - survey.done, len(survey.open_arms)
        cause = "".join(f"{change}: " for change in [_joined(changes(course.index, name))] if change)
        if not survey.done:
            there = sampled(course.index, name)
            state = f"none scored yet; samples of {counted(there, 'run')} are there" if there else "none made yet"
            what = f"{counted(survey.arms, 'arm')}, about {counted(runs, 'run')}, {state}"
        elif runs:
            named = [arm.partition("/")[2] for arm in survey.open_arms]
            where = f"{counted(arms, 'arm')} ({_joined(named)})" if arms < survey.arms else "all arms"
            kept = f"{counted(survey.done, 'run')} {'is' if survey.done == 1 else 'are'} kept"
            what = f"{kept}, about {runs} {'is' if runs == 1 else 'are'} to be made in {where}"
        else:
            what = f"all {counted(survey.done, 'run')} are there"
        lines.append(f"{name}: {cause}{what}")
    return lines


def sampled(index: Index, study: str) -> int:
    """Count the runs of a study's arms, scored or not, of which the samples are there."""
    keys = {key("sample", arm.setup) for arm in index.study(study).arms}
    (file,) = FILES["sample"]
    pattern = run_folder(index.results, "sample").relative_to(index.results)
    return sum(len([*index.results.glob(str(pattern / file).format(key=key, n="*", r="*"))]) for key in keys)


def again(stats: Mapping[str, int], reasons: Mapping[str, Collection[str]], new: int) -> list[str]:
    """Sentences on jobs of a dry run that the scores do not explain: finished work that is made again, and tables.

    Args:
        stats: number of jobs by rule.
        reasons: Snakemake's reasons by rule.
        new: number of runs without a score.
    """
    lines = []
    for rule in ("subset", "train", "sample", "external", "score"):
        known = sorted({why for text in reasons.get(rule, ()) if (why := _changed(text))})
        if known and stats.get(rule, 0):
            count = stats[rule]
            lines.append(f"{rule}: {counted(count, 'job')} again, because {' and '.join(known)}")
    tables = [rule for rule in ("study", "figures", "report", "study_report") if stats.get(rule)]
    if tables and not new and not lines:
        words = {"study": "tables", "figures": "figures", "report": "the page", "study_report": "the page of the study"}
        lines.append(f"{_listed([words[rule] for rule in tables])} will be made again")
    return lines


def _changed(reason: str) -> str:
    """Why Snakemake repeats a job that has been done before, in a few words; empty if its output is missing."""
    known = {
        "Code has changed": "its command has changed",
        "Params have changed": "its parameters have changed",
        "Set of input files has changed": "its input files are others",
        "Updated input files": "its input files have changed",
        "Software environment": "its software environment has changed",
        "Forced execution": "it was forced",
    }
    return next((words for start, words in known.items() if reason.startswith(start)), "")


def changes(index: Index, study: str) -> list[str]:
    """What has changed since the tables of a study were made, such as "epsilon changed from 0.1 to 0.2"."""
    texts: dict[str, None] = {}
    for arm, emm_key in _made(index, study).items():
        setup = next((item.setup for item in index.study(study).arms if item.name == arm), None)
        if setup is None or key("emm", setup) == emm_key:
            continue
        try:
            before = yaml.safe_load((arm_folder(index.results, "emm", emm_key) / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        present = json.loads(json.dumps(stage_settings("emm", setup)))
        for dotted, old, new in _differences(before, present):
            texts[f"{dotted.rpartition('.')[2]} changed from {old} to {new}"] = None
    return list(texts)


def _made(index: Index, study: str) -> dict[str, str]:
    """Key of the search of each arm, from the tables of this experiment, or of the one of its plain name."""
    for folder in (index.experiment, index.results / index.settings.name):
        try:
            with (folder / study / "emm.csv").open(newline="", encoding="utf-8") as file:
                return {row["arm"]: row["key"] for row in csv.DictReader(file)}
        except (OSError, ValueError, KeyError, csv.Error):
            continue
    return {}


def _differences(before: Any, present: Any, dotted: str = "") -> Iterable[tuple[str, object, object]]:
    """Settings that differ between two nested mappings, with their dotted names and both values."""
    if isinstance(before, Mapping) and isinstance(present, Mapping):
        for name in dict.fromkeys([*before, *present]):
            yield from _differences(before.get(name), present.get(name), f"{dotted}.{name}" if dotted else str(name))
    elif before != present:
        yield dotted, before, present


def _joined(words: Sequence[str]) -> str:
    more = len(words) - NAMED
    return ", ".join(words[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def counted(number: int, what: str) -> str:
    """A number of things: "1 run", "2 runs"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
