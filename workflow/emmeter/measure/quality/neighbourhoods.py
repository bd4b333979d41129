"""Measures by nearest neighbours: precision, recall, density, coverage and authenticity.

The neighbourhood of an image is the ball around it that reaches to the k-th nearest other image of its own set.
"""

from dataclasses import dataclass

import numpy as np

from emmeter.measure.quality.distributions import squared_distances


@dataclass(frozen=True)
class Neighbourhoods:
    """Comparison of generated with real images by their neighbourhoods.

    None of them changes if features are rotated, shifted or multiplied by one number, or if images are reordered.
    """

    precision: float
    """Share of generated images in the neighbourhood of a real one, 0 to 1 (Kynkäänniemi et al. 2019).  Higher is
    better.  Blurred images raise it, too."""
    recall: float
    """Share of real images in the neighbourhood of a generated one, 0 to 1 (Kynkäänniemi et al. 2019).  Higher is
    better.  Noise raises it, too, because it widens neighbourhoods."""
    density: float
    """Number of real neighbourhoods that hold a generated image, on average, divided by k (Naeem et al. 2020).  About 1
    for real images, from 0 on.  Blurred images and averages exceed 1, so higher is not always better."""
    coverage: float
    """Share of real images whose neighbourhood holds a generated one, 0 to 1 (Naeem et al. 2020).  Higher is better."""
    authenticity: float
    """Share of generated images that are farther from their nearest real image than this one is from its own nearest
    other real image, 0 to 1 (Alaa et al. 2022).  About 1/2 for real images; 0 if all are copies."""


def neighbourhoods(generated: np.ndarray, real: np.ndarray, k: int) -> Neighbourhoods:
    """Compare generated with real images by their neighbourhoods.

    Distances between all pairs are needed, because precision asks for every ball that holds an image.

    Args:
        generated: float (m, d).
        real: float (n, d).
        k: number of neighbours, from 1 to min(n, m) - 1.
    Raises:
        ValueError: a set has fewer than k + 1 images.
    """
    if not 1 <= k < min(len(generated), len(real)):
        raise ValueError(f"k = {k}: must be from 1 to {min(len(generated), len(real)) - 1} for these images")
    across = squared_distances(generated, real)
    reach = nearest_others(real, k)
    inside = across <= reach[:, -1]
    nearest = across.argmin(axis=1)
    return Neighbourhoods(
        precision=float(inside.any(axis=1).mean()),
        recall=float((across <= nearest_others(generated, k)[:, -1:]).any(axis=0).mean()),
        density=float(inside.sum() / (k * len(generated))),
        coverage=float(inside.any(axis=0).mean()),
        authenticity=float((across[np.arange(len(across)), nearest] > reach[nearest, 0]).mean()),
    )


def nearest_others(features: np.ndarray, k: int) -> np.ndarray:
    """Squared distances of each image to the `k` nearest others of its set, increasing: float64 (n, k)."""
    squared = squared_distances(features, features)
    np.fill_diagonal(squared, np.inf)
    return np.sort(np.partition(squared, k - 1, axis=1)[:, :k], axis=1)
