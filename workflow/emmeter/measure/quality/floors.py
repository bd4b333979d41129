"""The measures of generated images against real ones, each beside its floor: the same for other real images.

Most measures depend on the number of images.  So both comparisons use equally many on every side, drawn at random with
a fixed seed, and the means over several draws are given.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from emmeter.measure.quality.distributions import frechet, mmd, typical_distance
from emmeter.measure.quality.neighbourhoods import neighbourhoods

METRICS = ("frechet", "mmd", "precision", "recall", "density", "coverage", "authenticity")
FEWEST = 4  # images per side, below which nothing is compared
ENOUGH = 2000  # images that all draws of a side have together, at which more draws add little
SEED = 20_100_914  # of the draws; the same for all runs, so that equal runs have equal tables


@dataclass(frozen=True)
class Measures:
    """All measures of one set of images against another (`distributions`, `neighbourhoods`)."""

    frechet: float
    mmd: float
    precision: float
    recall: float
    density: float
    coverage: float
    authenticity: float


@dataclass(frozen=True)
class Compared:
    """Generated images against a set of real ones, beside other real images."""

    images: int
    """Images per side of each comparison."""
    k: int
    """Neighbours that define a neighbourhood: as asked for, or `images` - 1 if there are fewer."""
    bandwidth: float
    """Width of the kernel of `mmd`, in units of the features, mean over the draws."""
    generated: Measures
    """Mean over the draws."""
    floor: Measures
    """The same for real images in the place of the generated ones."""
    floor_sd: Measures
    """Standard deviation of the floor between draws.  Draws overlap, so it is a lower bound of what fresh images would
    show; 0 if there is one draw only."""


def against_held_out(
    generated: Sequence[np.ndarray], held_out: np.ndarray, *, k: int, most: int, draws: int
) -> list[Compared] | None:
    """Compare sets of generated images with one half of the held-out ones; the other half is the floor.

    Args:
        generated: float (m, d) each, such as the images of every snapshot of a run.  All share draws and floor.
        held_out: float (h, d).
        k: neighbours that define a neighbourhood.
        most: largest number of images per side.
        draws: largest number of random draws over which the measures are averaged (`draws_of`).
    Returns:
        One entry per set.  None if there are fewer than `FEWEST` images per side, or if real images are all the same.
    """
    count = min(*map(len, generated), len(held_out) // 2, most)

    def real(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        both = _drawn(held_out, 2 * count, random)
        return both[:count], both[count:]

    return _compared(generated, real, count, k, draws)


def against_train(
    generated: Sequence[np.ndarray], train: np.ndarray, held_out: np.ndarray, *, k: int, most: int, draws: int
) -> list[Compared] | None:
    """Compare sets of generated images with the training images; held-out images are the floor.

    Args:
        train: float (n, d).
        generated, held_out, k, most, draws: as for `against_held_out`.
    Returns:
        As `against_held_out`.
    """
    count = min(*map(len, generated), len(train), len(held_out), most)

    def real(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return _drawn(train, count, random), _drawn(held_out, count, random)

    return _compared(generated, real, count, k, draws)


def draws_of(most: int, images: int) -> int:
    """Number of draws at a number of images per side: `most`, fewer of many images, but at least two.

    Measures of many images vary less from draw to draw, and cost more.
    """
    return min(most, max(2, ENOUGH // images))


def _drawn(features: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    return features[random.permutation(len(features))[:count]]


def _compared(
    generated: Sequence[np.ndarray],
    draw_real: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]],
    count: int,
    k: int,
    draws: int,
) -> list[Compared] | None:
    """Compare over several draws; `draw_real` draws the real images, and those of the floor."""
    if count < FEWEST:
        return None
    random, k = np.random.default_rng(SEED), min(k, count - 1)
    widths: list[float] = []
    floors: list[Measures] = []
    values: list[list[Measures]] = [[] for _ in generated]
    for _ in range(draws_of(draws, count)):
        real, other = draw_real(random)
        try:
            width = typical_distance(real)
        except ValueError:
            return None
        widths.append(width)
        floors.append(measures(other, real, k, width))
        seed = int(random.integers(2**32))  # sets of one size are drawn alike
        for rows, images in zip(values, generated, strict=True):
            rows.append(measures(_drawn(images, count, np.random.default_rng(seed)), real, k, width))
    spread = np.std([astuple(floor) for floor in floors], axis=0, ddof=1) if floors[1:] else np.zeros(len(METRICS))
    floor, floor_sd = _mean(floors), Measures(*map(float, spread))
    return [Compared(count, k, float(np.mean(widths)), _mean(rows), floor, floor_sd) for rows in values]


def measures(images: np.ndarray, real: np.ndarray, k: int, bandwidth: float) -> Measures:
    """Measure one set of images against another.

    Args:
        images: float (m, d).
        real: float (n, d).
        k: neighbours that define a neighbourhood, from 1 to min(n, m) - 1.
        bandwidth: width of the kernel, above 0.
    """
    near = neighbourhoods(images, real, k)
    return Measures(frechet(images, real), mmd(images, real, bandwidth), *astuple(near))


def _mean(rows: Sequence[Measures]) -> Measures:
    return Measures(*map(float, np.mean([astuple(row) for row in rows], axis=0)))
