"""The CSV tables: their columns, and their readers."""

import csv
from collections.abc import Sequence
from pathlib import Path

from emmeter.errors import StageError

EMM_COLUMNS = (
    "study", "arm", "factor", "value",
    "emm", "emm_low", "emm_high", "status",
    "data", "resolution", "budget", "epochs", "rule", "epsilon", "threshold", "snapshot",
    "emm_isotonic", "emm_interpolated", "emm_best_snapshot", "slope", "run_sd", "df", "prior_sd", "prior_df",
    "runs", "confirm_runs", "images_trained", "flops", "seconds", "note",
)  # fmt: skip
CURVE_COLUMNS = (
    "study", "arm", "value", "n", "replicate", "role", "progress", "images_seen", "memorized", "images", "ratio",
    "ratio_low", "ratio_high", "mean_distance",
)  # fmt: skip
CONTRAST_COLUMNS = ("study", "arm", "baseline", "setting", "emm_ratio", "ratio_low", "ratio_high", "paired", "note")
FINDING_COLUMNS = (
    "study", "finding", "claim", "source", "expect", "margin", "at", "arms", "verdict",
    "effect", "effect_low", "effect_high", "paired", "further_runs", "note", "setting", "arm_keys",
)  # fmt: skip
ONSET_COLUMNS = ("study", "arm", "n", "replicate", "level", "onset_images", "onset_epochs", "note")
LOG_COLUMNS = ("images_seen", "progress", "learning_rate", "loss", "train_loss", "held_out_loss")
PUBLISHED_COLUMNS = (
    "study", "arm", "n", "epoch", "runs", "ours_percent", "paper_percent", "difference", "tolerance", "within",
    "figure",
)  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    """The rows of one of our CSV files."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_all(paths: Sequence[Path], columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of several tables of one kind.

    Raises:
        StageError: a table is missing, cannot be read, or has other columns.
    """
    rows: list[dict[str, str]] = []
    for path in paths:
        try:
            with open(path, newline="", encoding="utf-8") as file:
                header, *found = csv.reader(file)
        except FileNotFoundError:
            raise StageError(f"{path}: is not there; run snakemake first") from None
        except (OSError, ValueError, csv.Error) as error:  # without a header: a value too few
            raise StageError(f"{path}: cannot be read ({error}); delete it, and run snakemake again") from None
        if any(len(row) != len(columns) for row in found) or header != list(columns):
            raise StageError(f"{path}: has other columns than this version writes; delete it, and run snakemake again")
        rows += [dict(zip(columns, row, strict=True)) for row in found]
    return rows
