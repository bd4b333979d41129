"""Where in the noise a network memorizes: its errors at single noise levels, at the size nearest to an arm's EMM."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class AtLevel:
    """The networks of an arm at one noise level, at the end of their training."""

    arm: str
    n: int
    """Number of training images: of the sizes that the search has tried, the one nearest to EMM."""
    runs: int
    sigma: float
    gap: float | None
    """Mean held-out loss over mean training loss; 1: new images are denoised as well as those of the training set.
    None without held-out images."""
    nearness: float
    """On training images, mean squared distance to the optimum over that to the linear denoiser; below 1: the network
    is nearer to the denoiser that replays the training set."""


def nearest_size(arm: Row, sizes: Iterable[int]) -> int:
    """Of the sizes of an arm, the one nearest to its EMM, or to the end of the interval that is known.

    Args:
        arm: its row of emm.csv.
        sizes: at least one.
    """
    known = [arm[name] for name in ("emm", "emm_low", "emm_high") if not math.isnan(arm[name])]
    ordered = sorted(set(sizes))
    wanted = math.log(known[0]) if known else math.log(ordered[len(ordered) // 2])
    return min(ordered, key=lambda size: abs(math.log(size) - wanted))


def at_emm(arms: Iterable[Row], rows: Iterable[Row]) -> list[AtLevel]:
    """Errors of all arms of a study, by arm and noise level.

    Args:
        arms: rows of emm.csv.
        rows: rows of denoising.csv of the study.
    """
    ended = [row for row in rows if row["progress"] == 1]
    found = []
    for arm in arms:
        own = [row for row in ended if row["arm"] == arm["arm"]]
        if not own:
            continue
        n = nearest_size(arm, (int(row["n"]) for row in own))
        here = [row for row in own if row["n"] == n]
        for sigma in sorted({row["sigma"] for row in here}):
            train = [row for row in here if row["sigma"] == sigma and row["against"] == "training"]
            held_out = [row for row in here if row["sigma"] == sigma and row["against"] == "held-out"]
            loss = fmean(row["loss"] for row in train)
            gap = fmean(row["loss"] for row in held_out) / loss if held_out and loss else None
            distances = [fmean(row[name] for row in train) for name in ("to_optimum", "to_linear")]
            nearness = distances[0] / distances[1] if distances[1] else math.inf
            found.append(AtLevel(arm["arm"], n, len(train), sigma, gap, nearness))
    return found
