"""Distances between two distributions of features: Fréchet distance and kernel MMD.

Lower is better for both.  Both are symmetric, and do not change if a rotation or a shift is applied to both sets.
"""

import numpy as np


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance between the Gaussians that have the means and covariances of two sets.

    It is |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau 1982; as FID: Heusel et al. 2017).  Lower is
    better; 0 is the least.  It is biased upward, the more so the fewer images there are.  So compare it with the floor
    of real images of the same number, never with published values.

    With centred data X1 and X2, the last trace is the sum of the singular values of X1 X2^T.  No matrix root is taken,
    so covariances of any rank serve, also those of fewer images than features.

    Args:
        first: float (n, d), n >= 2.
        second: float (m, d), m >= 2.
    Returns:
        The squared distance, in squared units of the features.
    Raises:
        ValueError: a set has fewer than two images, or the sets differ in d.
    """
    _require_pair(first, second, 2)
    shift = first.mean(axis=0) - second.mean(axis=0)
    roots = [_root(features) for features in (first, second)]
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(float((root**2).sum()) for root in roots)
    return max(float(shift @ shift + spread - 2 * shared), 0.0)  # rounding may give -1e-13


def _root(features: np.ndarray) -> np.ndarray:
    """R, (at most min(n, d), d), with R^T R = covariance."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(centred) > centred.shape[1] else centred


def mmd(first: np.ndarray, second: np.ndarray, bandwidth: float) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy with the kernel exp(-|x - y|^2 / (2 bandwidth^2)).

    Source: Gretton et al. 2012, equation 3; as a measure of image quality: Jayasumana et al. 2024.  Lower is better.
    For two samples of one distribution, the mean is 0 at any number of images, so an estimate may be negative.

    Args:
        first: float (n, d), n >= 2.
        second: float (m, d), m >= 2.
        bandwidth: width of the kernel, above 0, in units of the features (`typical_distance`).
    Returns:
        The squared discrepancy, at most 2.
    Raises:
        ValueError: a set has fewer than two images, the sets differ in d, or the bandwidth is not positive.
    """
    _require_pair(first, second, 2)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth {bandwidth}: must be above 0")

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(squared_distances(a, b) / (-2 * bandwidth**2))

    def within(a: np.ndarray) -> float:
        return float((kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1)))

    return within(first) + within(second) - 2 * float(kernel(first, second).mean())


def typical_distance(features: np.ndarray) -> float:
    """Half the median of the distances between different images: the bandwidth for `mmd`.

    The median is a common choice (Gretton et al. 2012).  On 250 digits, half of it separates blurred or repeated images
    from others about twice as clearly, and noisy ones as clearly.  If half of the distances are 0, because most
    images are duplicates, the others decide.

    Args:
        features: float (n, d), n >= 2.
    Returns:
        The bandwidth, above 0, in units of the features.
    Raises:
        ValueError: all images are the same.
    """
    upper = np.sqrt(squared_distances(features, features)[np.triu_indices(len(features), 1)])
    positive = upper[upper > 0]
    if not len(positive):
        raise ValueError("all images have the same features: a kernel has no width")
    return float(np.median(upper) or np.median(positive)) / 2


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, float64 (n, m), of the rows of (n, d) and (m, d).

    Features are centred before their squares are expanded, which keeps the digits of small distances.  Distances that
    are 0 within rounding become exactly 0, so that a copy is at distance 0.
    """
    centre = second.mean(axis=0)
    a, b = (np.asarray(features, np.float64) - centre for features in (first, second))
    squares = np.einsum("nd,nd->n", a, a)[:, None] + np.einsum("md,md->m", b, b)
    squared = squares - 2 * (a @ b.T)
    squared[squared < 1e-12 * squares] = 0.0
    return squared


def _require_pair(first: np.ndarray, second: np.ndarray, least: int) -> None:
    """Raise ValueError unless both sets are (n, d) and (m, d) with at least `least` images."""
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features {first.shape} and {second.shape}: must be (n, d) and (m, d)")
    if min(len(first), len(second)) < least:
        raise ValueError(f"{len(first)} and {len(second)} images: must be at least {least} each")
