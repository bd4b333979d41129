"""The memorization ratios that the paper published, and the arms that have a published setting or the place of one.

A published number belongs to a setting at the paper's scale.  An arm with this setting measures the same number.  At
another scale, the arm of the same study and name is its *counterpart*: it differs from its first arm in the same way.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emmeter import project
from emmeter.settings.configuration import load, read
from emmeter.settings.keys import digest, ema_decay, stage_settings
from emmeter.settings.overrides import override
from emmeter.settings.sections import Setup
from emmeter.settings.studies import Settings
from emmeter.settings.validation import read_setup

NUMBERS = project.ROOT / "workflow" / "resources" / "published.csv"
PAPER = Path("config/paper.yaml")
SCALE = {"data": "cifar10", "resolution": 32, "budget": "40000 epochs"}  # of most of the paper's studies

# Settings that a published number does not depend on: which images are drawn, what is kept, how many are counted.
_FREE = {
    "data": {"root", "download", "draw", "held_out", "balanced"},
    "training": {"snapshots", "ema_decays", "order"},
    "sampling": {"images", "ema_decay"},
    "scoring": {"distinct", "neighbours"},
}


@dataclass(frozen=True)
class Number:
    """A memorization ratio that the paper published.

    Attributes:
        study, arm: its names in `NUMBERS`; `study` is one of ours where it belongs to one.
        n: training images.
        epoch: the epoch after which it was measured; None: it is the highest over the snapshots of the run.
        percent: 0..100.
        error: of reading the plot, in percentage points.
        figure: of the paper.
        setting: the arm as dotted overrides of the paper's scale; None: the paper does not say which arm it is.
    """

    study: str
    arm: str
    n: int
    epoch: int | None
    percent: float
    error: float
    figure: str
    setting: Mapping[str, Any] | None


def numbers() -> list[Number]:
    """Every published number, in the order of `NUMBERS`."""
    with open(NUMBERS, newline="", encoding="utf-8") as file:
        return [
            Number(
                study=row["study"],
                arm=row["arm"],
                n=int(row["n"]),
                epoch=int(row["epoch"]) if row["epoch"] else None,
                percent=float(row["memorized_percent"]),
                error=float(row["reading_error_percent"]),
                figure=row["figure"],
                setting=yaml.safe_load(row["setting"]) if row["setting"] else None,
            )
            for row in csv.DictReader(file)
        ]


def identity(setup: Setup) -> str:
    """Key of the settings in which a run and a published number must agree: ten hexadecimal digits."""
    settings: dict[str, Any] = {
        section: {name: value for name, value in content.items() if name not in _FREE.get(section, ())}
        for section, content in stage_settings("score", setup).items()
        if section != "seed"
    }
    return digest(settings | {"ema_decay": ema_decay(setup)})


def identities(settings: Settings) -> dict[str, dict[str, str]]:
    """The identity of every arm that trains a network, by selected study and arm."""
    return {
        study.name: {arm.name: identity(arm.setup) for arm in study.arms if arm.setup.kind == "network"}
        for study in settings.studies
        if study.name in settings.selected
    }


def base_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The base settings of a configuration: what it has beside studies, execution and figures."""
    return {name: config[name] for name in Setup.model_fields if name in config}


def counterparts(settings: Settings, folder: Path = Path()) -> dict[str, dict[str, list[Number]]]:
    """The published numbers of the counterparts of our arms, by selected study and arm, in the order of our studies.

    Each number is of a whole run, and the numbers of an arm increase in n.  An arm has the numbers of its own study.
    The first arm of a study has those of its setting in other studies as well, because a figure of the paper may leave
    out the common baseline.  Studies with fewer than two such arms are left out, as there is nothing to compare.

    Args:
        settings: of our scale.
        folder: where the project's own configuration files are.
    Raises:
        SettingsError: the configuration of the paper's scale cannot be read.
    """
    config = load([project.file(PAPER, folder)], folder)
    base, studies = base_of(config), config.get("studies") or {}
    published = [
        (number, identity(read_setup(override(base, number.setting))))
        for number in numbers()
        if number.setting is not None and number.epoch is None
    ]
    # Only these studies are resolved at the paper's scale, so that no other one delays or stops the workflow.
    named = [name for name in dict.fromkeys(number.study for number, _ in published) if name in studies]
    named = [name for name in named if name in settings.selected]
    if not named:
        return {}
    paper = read(config | {"studies": {name: studies[name] for name in named}, "run": named}, asked=())
    theirs = {study.name: {arm.name: identity(arm.setup) for arm in study.arms} for study in paper.studies}
    result: dict[str, dict[str, list[Number]]] = {}
    for study in (study for study in settings.studies if study.name in theirs):
        arms: dict[str, list[Number]] = {}
        for arm in study.arms:
            same = [number for number, key in published if key == theirs[study.name].get(arm.name)]
            own = {number.n: number for number in same if number.study == study.name}
            if arm is study.arms[0]:
                own = {number.n: number for number in reversed(same)} | own  # the first of several of one size
            if own:
                arms[arm.name] = [own[n] for n in sorted(own)]
        if len(arms) > 1:
            result[study.name] = arms
    return result
