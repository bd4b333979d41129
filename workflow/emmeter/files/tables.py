"""The CSV tables: their columns, and their readers.

Only a call of a reader imports pandas: the stage train needs nothing here but the columns of its log.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emmeter.errors import StageError
from emmeter.measure.quality.floors import METRICS
from emmeter.measure.tradeoff import METRICS as TRADED

if TYPE_CHECKING:
    from pandas import DataFrame

EMM_COLUMNS = (
    "study", "arm", "factor", "value",
    "emm", "emm_low", "emm_high", "status",
    "data", "resolution", "budget", "epochs", "rule", "epsilon", "threshold", "snapshot",
    "emm_isotonic", "emm_interpolated", "emm_best_snapshot", "slope", "run_sd", "df", "prior_sd", "prior_df",
    "runs", "confirm_runs", "images_trained", "flops", "seconds", "note", "key",
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
BUDGET_COLUMNS = (
    "study", "finding", "arm", "images", "emm", "emm_low", "emm_high", "exponent", "exponent_low", "exponent_high",
    "law", "law_low", "law_high", "forecast", "law_fixed", "law_linear", "law_quadratic",
)  # fmt: skip
LOG_COLUMNS = ("images_seen", "progress", "learning_rate", "loss", "train_loss", "held_out_loss")
PUBLISHED_COLUMNS = (
    "study", "arm", "n", "epoch", "runs", "ours_percent", "paper_percent", "difference", "tolerance", "within",
    "figure",
)  # fmt: skip
SHAPE_COLUMNS = (
    "study", "quantity", "arm", "against", "position", "published_n", "published", "published_low", "published_high",
    "n", "ours", "ours_low", "ours_high", "extrapolated", "order", "figure", "note",
)  # fmt: skip
AUDIT_IMAGE_COLUMNS = (
    "file", "nearest", "second", "d1", "d2", "ratio", "mirrored", "calibrated", "similar", "similarity",
    "d_held_out", "nearer", "copy", "copy_by", "group", "label", "prompt", "seed",
)  # fmt: skip
AUDIT_TRAINING_COLUMNS = ("file", "occurrences", "matches", "copies", "least_ratio", "group", "label", "prompt", "seed")

ARM_COLUMNS = ("study", "arm", "value")  # in tables of studies, before the columns of tables of one arm
RUN_COLUMNS = ("n", "replicate", "role", "progress", "images_seen")
QUALITY_COLUMNS = (
    *RUN_COLUMNS, "features", "against", "images", "k", "bandwidth",
    *(f"{metric}{part}" for metric in METRICS for part in ("", "_floor", "_floor_sd")),
    "trained_to_end", "note",
)  # fmt: skip
COPIED_COLUMNS = (
    *RUN_COLUMNS, "images", "memorized", "train", "copied", "share", "share_low", "share_high", "reachable",
    "repeated", "repeated_share", "repeated_copies", "once_share", "once_copies",
)  # fmt: skip
ARM_CRITERIA_COLUMNS = (*RUN_COLUMNS, "criterion", "threshold", "images", "memorized")
CRITERIA_COLUMNS = (
    "study", "criterion", "threshold", "finding", "claim", "verdict", "effect", "effect_low", "effect_high", "survives",
    "rank_correlation",
)  # fmt: skip
TRADEOFF_COLUMNS = (
    *ARM_COLUMNS, "features", "n", "shared", "runs", "unfinished", "ratio",
    *(f"{metric}{part}" for metric in TRADED for part in ("", "_floor")),
)  # fmt: skip
DENOISING_COLUMNS = (
    *RUN_COLUMNS, "against", "images", "sigma", "loss", "loss_optimum", "loss_linear", "to_optimum", "to_linear",
    "apart", "other", "in_common", "between",
)  # fmt: skip
COPIED_IMAGE_COLUMNS = (
    "n", "replicate", "position", "index", "label", "times", "copies", "first_progress", "first_images_seen",
)  # fmt: skip

# The columns of all tables that hold text or truth values; the others hold numbers.
TEXT = frozenset({
    "study", "arm", "factor", "value", "status", "data", "budget", "rule", "snapshot", "note", "role", "baseline",
    "setting", "paired", "finding", "claim", "source", "expect", "arms", "verdict", "arm_keys", "within", "figure",
    "forecast", "key", "features", "trained_to_end", "quantity", "against", "extrapolated", "order",
    "shared", "criterion", "survives",
})  # fmt: skip


def read(paths: Iterable[Path], columns: Sequence[str]) -> "DataFrame":
    """Join tables of one kind: text as str, numbers as float64, NaN where a cell is empty.

    Raises:
        StageError: a table is missing, cannot be read, or has other columns.
    """
    import pandas as pd

    tables = []
    for path in paths:
        try:
            tables.append(_typed(read_cells([path], columns)))
        except ValueError as error:
            raise _damaged(path, error) from None
    return pd.concat(tables, ignore_index=True)


def read_cells(paths: Iterable[Path], columns: Sequence[str]) -> "DataFrame":
    """Join tables of one kind with every cell as it is written, so that a copy has the same bytes.

    The csv module parses them: pandas would fill up rows that are too short.

    Raises:
        StageError: a table is missing, cannot be read, or has other columns.
    """
    import pandas as pd

    cells: list[list[str]] = []
    for path in paths:
        try:
            with open(path, newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
        except FileNotFoundError:
            raise StageError(f"{path}: is not there; run snakemake first") from None
        except (OSError, ValueError, csv.Error) as error:  # an empty file: there is no header to unpack
            raise _damaged(path, error) from None
        if any(len(row) != len(columns) for row in rows) or header != list(columns):
            raise StageError(f"{path}: has other columns than this version writes; delete it, and run snakemake again")
        cells += rows
    return pd.DataFrame(cells, columns=list(columns), dtype=object)


def frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> "DataFrame":
    """The table of `rows` with the types of `read`, at full precision; None stands for an empty cell."""
    import pandas as pd

    cells = [[row[column] for column in columns] for row in rows]
    return _typed(pd.DataFrame(cells, columns=list(columns), dtype=object))


def _typed(cells: "DataFrame") -> "DataFrame":
    numbers = [column for column in cells.columns if column not in TEXT]
    table = cells.copy()
    table[numbers] = cells[numbers].where(cells[numbers] != "").astype(float)
    return table


def _damaged(path: Path, error: Exception) -> StageError:
    return StageError(f"{path}: cannot be read ({error}); delete it, and run snakemake again")
