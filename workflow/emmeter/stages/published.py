"""The published stage compares our memorization ratios with those that the paper published.

A published number is compared with the runs of an arm whose settings equal the paper's in everything that could matter
to the ratio.  How images were drawn, counted and saved may differ.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from emmeter import project
from emmeter.command import command
from emmeter.files.tables import CURVE_COLUMNS, PAPER_COLUMNS, PUBLISHED_COLUMNS, read
from emmeter.files.writing import write_csv
from emmeter.settings.configuration import load
from emmeter.settings.keys import digest, ema_decay, stage_settings
from emmeter.settings.overrides import override
from emmeter.settings.sections import Setup
from emmeter.settings.studies import Settings
from emmeter.settings.validation import read_setup

if TYPE_CHECKING:
    from pandas import DataFrame

NUMBERS = Path(__file__).parents[2] / "resources" / "published.csv"
PAPER = Path("config/paper.yaml")
TOLERANCE = 2.0  # percentage points besides the reading error: noise between runs (about 1), counting 10,000 images

# Settings that a published number does not depend on: which images are drawn, what is kept, how many are counted.
_FREE = {
    "data": {"root", "download", "draw", "held_out", "balanced"},
    "training": {"snapshots", "ema_decays", "order"},
    "sampling": {"images", "ema_decay"},
    "scoring": {"distinct", "neighbours"},
}


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
        study.name: {arm.name: identity(arm.setup) for arm in study.arms if arm.setup.diffusion.denoiser == "network"}
        for study in settings.studies
        if study.name in settings.selected
    }


def compare(
    ours: Mapping[str, Mapping[str, str]], paper: Mapping[str, Any], curves: Mapping[str, "DataFrame"]
) -> list[dict[str, Any]]:
    """Rows of published.csv: every published number for which our studies have runs.

    Args:
        ours: identities of our arms, by study and arm.
        paper: the base settings of the paper's scale.
        curves: curves.csv of each study.
    """
    arms = [(study, arm, key) for study, keys in ours.items() for arm, key in keys.items()]
    rows = []
    for number in read([NUMBERS], PAPER_COLUMNS).to_dict("records"):
        if not number["setting"]:
            continue
        wanted = identity(read_setup(override(paper, yaml.safe_load(number["setting"]))))
        images_seen = number["n"] * number["epoch"]  # NaN without an epoch
        for study, arm in ((study, arm) for study, arm, key in arms if key == wanted):
            table = curves[study]
            snapshots = table.loc[(table["arm"] == arm) & (table["n"] == number["n"])]
            if ratios := _ratios(snapshots, images_seen):
                rows.append(_row(number, ratios))
                break  # arms of the same setting share their runs
    return rows


def _ratios(snapshots: "DataFrame", images_seen: float) -> list[float]:
    """The highest ratio of each run over its snapshots, or over those after `images_seen` images unless that is NaN."""
    if not math.isnan(images_seen):
        snapshots = snapshots.loc[(snapshots["images_seen"] / images_seen - 1).abs() <= 0.01]
    return [max(run["ratio"]) for _, run in snapshots.groupby("replicate", sort=False)]


def _row(number: Mapping[str, Any], ratios: Sequence[float]) -> dict[str, Any]:
    ours = 100 * sum(ratios) / len(ratios)
    difference = ours - number["memorized_percent"]
    tolerance = TOLERANCE + number["reading_error_percent"]
    return {
        "study": number["study"],
        "arm": number["arm"],
        "n": int(number["n"]),
        "epoch": None if math.isnan(number["epoch"]) else int(number["epoch"]),
        "runs": len(ratios),
        "ours_percent": ours,
        "paper_percent": number["memorized_percent"],
        "difference": difference,
        "tolerance": tolerance,
        "within": abs(difference) <= tolerance,
        "figure": number["figure"],
    }


def published(arms: Mapping[str, Mapping[str, str]], *, tables: Path, table: Path, folder: Path = Path()) -> None:
    """Write published.csv: our ratios beside the published ones.

    Args:
        arms: identities of our arms, by study and arm (`identities`).
        tables: the folder of the experiment, which holds <study>/curves.csv.
        table: the CSV file to write.
        folder: where the project's own configuration files are.
    Raises:
        StageError: a table is missing or damaged.
    """
    files = load([project.file(PAPER, folder)], folder)
    paper = {name: files[name] for name in Setup.model_fields if name in files}
    curves = {study: read([tables / study / "curves.csv"], CURVE_COLUMNS) for study in arms}
    write_csv(table, PUBLISHED_COLUMNS, compare(arms, paper, curves))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--arms", required=True, help="identities of the arms of each study as JSON")
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path(), help="where the project's files are (default: here)")
    args = parser.parse_args(argv)
    published(json.loads(args.arms), tables=args.tables, table=args.table, folder=args.folder)


if __name__ == "__main__":
    command(main)
