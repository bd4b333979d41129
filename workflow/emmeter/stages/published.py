"""Our runs beside the numbers that the paper published, wherever both have the same setting.

``python -m emmeter.stages.published`` writes the table.  A published number is compared with runs of an arm whose
settings equal the paper's in everything that could matter to the ratio; how images were drawn, counted and saved may
differ.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from emmeter import project
from emmeter.command import command
from emmeter.files.tables import PUBLISHED_COLUMNS, read
from emmeter.files.writing import write_csv
from emmeter.settings.configuration import load
from emmeter.settings.keys import digest, ema_decay, stage_settings
from emmeter.settings.overrides import override
from emmeter.settings.sections import Setup
from emmeter.settings.studies import Settings
from emmeter.settings.validation import read_setup

NUMBERS = Path(__file__).parents[2] / "resources" / "published.csv"
PAPER = Path("config/paper.yaml")
TOLERANCE = 2.0  # percentage points: run-to-run noise of about 1 and counting 10,000 images, beside the reading

# What a published number does not depend on: seeds, which of the images are drawn, what is kept and how often counted.
_FREE = {
    "data": {"root", "download", "draw", "held_out", "balanced"},
    "training": {"snapshots", "ema_decays", "order"},
    "sampling": {"images", "ema_decay"},
    "scoring": {"distinct", "neighbours"},
}


def identity(setup: Setup) -> str:
    """A key of the settings in which a run and a published number must agree."""
    settings: dict[str, Any] = {
        section: {name: value for name, value in content.items() if name not in _FREE.get(section, ())}
        for section, content in stage_settings("score", setup).items()
        if section != "seed"
    }
    return digest(settings | {"ema_decay": ema_decay(setup)})


def identities(settings: Settings) -> dict[str, dict[str, str]]:
    """Of each selected study the identity of every arm that trains a network."""
    return {
        study.name: {arm.name: identity(arm.setup) for arm in study.arms if arm.setup.diffusion.denoiser == "network"}
        for study in settings.studies
        if study.name in settings.selected
    }


def compare(
    ours: Mapping[str, Mapping[str, str]], paper: Mapping[str, Any], curves: Mapping[str, Sequence[Mapping[str, str]]]
) -> list[dict[str, Any]]:
    """Rows of the table: every published number of which our studies hold runs.

    Args:
        ours: identities of our arms, by study and arm.
        paper: the base settings of the paper's scale.
        curves: rows of curves.csv of each study.
    """
    known = [(study, arm, one) for study, arms in ours.items() for arm, one in arms.items()]
    rows = []
    for number in read(NUMBERS):
        if not number["setting"]:
            continue
        wanted = identity(read_setup(override(paper, yaml.safe_load(number["setting"]))))
        n, epoch = int(number["n"]), int(number["epoch"] or 0)
        for study, arm in ((study, arm) for study, arm, one in known if one == wanted):
            of_arm = [row for row in curves[study] if row["arm"] == arm and int(row["n"]) == n]
            if ratios := _ratios(of_arm, n * epoch):
                rows.append(_row(number, ratios))
                break  # arms of the same setting share their runs
    return rows


def _ratios(rows: Iterable[Mapping[str, str]], images_seen: int) -> list[float]:
    """Of each run the highest ratio over its snapshots, or that of the snapshot after `images_seen` images if not 0."""
    best: dict[str, float] = {}
    for row in rows:
        if images_seen and abs(int(row["images_seen"]) / images_seen - 1) > 0.01:
            continue
        best[row["replicate"]] = max(best.get(row["replicate"], 0.0), float(row["ratio"]))
    return list(best.values())


def _row(number: Mapping[str, str], ratios: Sequence[float]) -> dict[str, Any]:
    ours, published = 100 * sum(ratios) / len(ratios), float(number["memorized_percent"])
    tolerance = TOLERANCE + float(number["reading_error_percent"])
    return {
        "study": number["study"],
        "arm": number["arm"],
        "n": number["n"],
        "epoch": number["epoch"],
        "runs": len(ratios),
        "ours_percent": ours,
        "paper_percent": published,
        "difference": ours - published,
        "tolerance": tolerance,
        "within": abs(ours - published) <= tolerance,
        "figure": number["figure"],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--arms", required=True, help="identities of the arms of each study as JSON")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    args = parser.parse_args(argv)
    ours = json.loads(args.arms)
    files = load([project.file(PAPER)])
    paper = {name: files[name] for name in Setup.model_fields if name in files}
    curves = {study: read(args.results / "studies" / study / "curves.csv") for study in ours}
    write_csv(args.table, PUBLISHED_COLUMNS, compare(ours, paper, curves))


if __name__ == "__main__":
    command(main)
