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


def against_held_out(generated: np.ndarray, held_out: np.ndarray, *, k: int, most: int, draws: int) -> Compared | None:
    """Compare generated images with one half of the held-out ones; the other half is the floor.

    Args:
        generated: float (m, d).
        held_out: float (h, d).
        k: neighbours that define a neighbourhood.
        most: largest number of images per side.
        draws: number of random draws over which the measures are averaged.
    Returns:
        None if fewer than `FEWEST` images per side are there, or all real images are the same.
    """
    count = min(len(generated), len(held_out) // 2, most)

    def sides(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        real = held_out[random.permutation(len(held_out))[: 2 * count]]
        return _drawn(generated, count, random), real[:count], real[count:]

    return _compared(sides, count, k, draws)


def against_train(
    generated: np.ndarray, train: np.ndarray, held_out: np.ndarray, *, k: int, most: int, draws: int
) -> Compared | None:
    """Compare generated images with the training images; held-out images are the floor.

    Args:
        generated: float (m, d).
        train: float (n, d).
        held_out: float (h, d).
        k, most, draws: as for `against_held_out`.
    Returns:
        None if fewer than `FEWEST` images per side are there, or all training images are the same.
    """
    count = min(len(generated), len(train), len(held_out), most)

    def sides(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _drawn(generated, count, random), _drawn(train, count, random), _drawn(held_out, count, random)

    return _compared(sides, count, k, draws)


def _drawn(features: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    return features[random.permutation(len(features))[:count]]


def _compared(
    sides: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray]], count: int, k: int, draws: int
) -> Compared | None:
    """Compare over several draws; `sides` draws generated images, real ones, and the real ones of the floor."""
    if count < FEWEST:
        return None
    random, k = np.random.default_rng(SEED), min(k, count - 1)
    rows: list[tuple[float, Measures, Measures]] = []
    for _ in range(draws):
        generated, real, other = sides(random)
        try:
            width = typical_distance(real)
        except ValueError:
            return None
        rows.append((width, measures(generated, real, k, width), measures(other, real, k, width)))
    widths, values, floors = zip(*rows, strict=True)
    spread = np.std([astuple(floor) for floor in floors], axis=0, ddof=1) if draws > 1 else np.zeros(len(METRICS))
    return Compared(count, k, float(np.mean(widths)), _mean(values), _mean(floors), Measures(*map(float, spread)))


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
