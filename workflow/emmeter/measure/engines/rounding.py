"""The proven error of squared distances in float32."""

import numpy as np

from emmeter.measure.engines.contract import blocks

BLOCK = 2**22  # pixels that are converted to float64 at once
CENTRE_IMAGES = 2**10  # images of which the centre is about the mean


def rounding(norms: np.ndarray, squared: np.ndarray, pixels: int) -> np.ndarray:
    """The largest error of a squared distance in float32, for images up to a given distance.

    Let q and b be the pixels of two images less those of a centre of whole grey levels.  They are integers of 8 bits
    and a sign, which float32 holds exactly (as do the shorter types that GPUs may use instead).  D = |q - b|^2 is the
    true squared distance.  FAISS computes it as |q|^2 + |b|^2 - 2 q b, each part by d products and their sum
    (d pixels), in an order that depends on the processor.  In any order, blocked or not, with or without fused
    multiplications, each product goes through at most d + 2 roundings: its own, d - 1 of sums, and two when the three
    parts are added, in any order.  So the result is sum_i t_i (1 + e_i) over the terms t_i of D, with
    |e_i| <= gamma = n eps / (1 - n eps) for n = d + 2 (Higham, Accuracy and Stability of Numerical Algorithms,
    section 3.1).  Here eps = 2^-23 is twice the rounding error of float32, which covers sums that are truncated instead
    of rounded.  Hence

        |result - D| <= gamma sum_i |t_i| <= gamma (|q|^2 + |b|^2 + 2 sum_i |q_i b_i|) <= gamma (|q| + |b|)^2

    by Cauchy and Schwarz.  For few images FAISS adds squared differences instead.  This has fewer roundings, of terms
    that add up to D <= (|q| + |b|)^2.  Setting a negative result to 0 brings it nearer to D >= 0.  With
    |b| <= |q| + sqrt(D) the bound needs no other image's norm:

        |result - D| <= gamma (2 |q| + sqrt(D))^2

    So if every result that is not among the candidates is at least v, and T + gamma (2 |q| + sqrt(T))^2 < v, then no
    image outside the candidates has D <= T.

    Args:
        norms: (m,) |q| of each image.
        squared: (m, c) D, or T.
        pixels: d.
    Returns:
        (m, c) the bound; infinity where n eps is not below 1, from 8 million pixels on.
    """
    relative = (pixels + 2) * float(np.finfo(np.float32).eps)
    if relative >= 1:
        return np.full(squared.shape, np.inf)
    return relative / (1 - relative) * (2 * norms[:, None] + np.sqrt(squared)) ** 2


def centre(base: np.ndarray) -> np.ndarray:
    """(d,) float32 whole grey levels near the mean of `base`; subtracting them shrinks the squares that cancel."""
    step = -(-len(base) // CENTRE_IMAGES)
    return np.rint(base[::step].mean(axis=0, dtype=np.float64)).astype(np.float32)


def centred_norms(query: np.ndarray, base: np.ndarray) -> np.ndarray:
    """(m,) |q| of `rounding`."""
    middle = centre(base)
    norms = np.empty(len(query))
    for rows in blocks(len(query), max(1, BLOCK // query.shape[1])):
        centred = (query[rows] - middle).astype(np.float64)
        norms[rows] = np.sqrt(np.einsum("md,md->m", centred, centred))
    return norms


def allowance(norms: np.ndarray | None, squared: np.ndarray, pixels: int) -> np.ndarray:
    """The error that an engine's distances may have: `rounding`, or 0 without norms, for an engine that is exact."""
    return np.zeros(squared.shape) if norms is None else rounding(norms, squared, pixels)
