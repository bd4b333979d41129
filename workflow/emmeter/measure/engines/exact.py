"""Engines whose distances are exact: differences of pixels, and products of float32 or of bytes."""

from functools import partial

import numpy as np

from emmeter.measure.engines.contract import Engine, blocks

BLOCK = 2**22  # pixel differences at once
BYTE_PIXELS = 2**15  # pixels up to which |b|^2 - 2 q b of signed bytes fits int32
BYTE_IMAGES, BYTE_BLOCK = 2**12, 2**27  # images, and their bytes, on either side of a block of products of bytes
ALIGNED = 32  # divides the sizes of products of bytes; torch asks for multiples of 8, and more than 16 rows, on a GPU
FLOAT_PIXELS = 2**10  # pixels up to which q b of signed bytes is an integer of at most 2^24: exact in float32
ROWS, COLUMNS = 2**10, 2**12  # images of a block of float32 products


def squared_distances(query: np.ndarray, base: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(m, c) int64 squared distances to the candidates, in integers.

    They are at most 255^2 per pixel, so the sum over more than 33,000 pixels needs int64.
    """
    squared = np.empty(candidates.shape, np.int64)
    columns = max(1, BLOCK // base.shape[1])
    for rows in blocks(len(query), max(1, columns // max(1, candidates.shape[1]))):
        images = query[rows, None, :].astype(np.int32)
        for part in blocks(candidates.shape[1], columns):
            difference = images - base[candidates[rows, part]]
            squared[rows, part] = np.einsum("mcd,mcd->mc", difference, difference, dtype=np.int64)
    return squared


def by_pixels(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Compare with all images pixel by pixel."""
    kept = np.empty((len(query), wanted), np.int64)
    for rows in blocks(len(query), max(1, BLOCK // len(base))):
        every = np.broadcast_to(np.arange(len(base)), (rows.stop - rows.start, len(base)))
        kept[rows] = _smallest(squared_distances(query[rows], base, every) * len(base) + every, wanted)
    return kept % len(base), kept // len(base)


def by_floats(query: np.ndarray, base: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute |q|^2 + |b|^2 - 2 q b by products of float32 matrices, exactly; nearest first, ties by position.

    Both sides are shifted from 0..255 to -128..127, which does not change differences.  The products of FLOAT_PIXELS
    pixels and all their partial sums are then integers of at most 2^24, which float32 holds.  Nothing is rounded, in
    any order of summation, even if a library rounds the factors to 8 bits.  Sums over more pixels are formed in
    float64.
    """
    count = len(base)
    kept = np.empty((len(query), wanted), np.int64)
    for rows in blocks(len(query), ROWS):
        best = np.empty((rows.stop - rows.start, 0), np.int64)
        for columns in blocks(count, COLUMNS):
            squared = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
            for pixels in blocks(base.shape[1], FLOAT_PIXELS):
                q, b = (part.astype(np.float32) - 128 for part in (query[rows, pixels], base[columns, pixels]))
                squared += np.einsum("md,md->m", q, q)[:, None]
                squared += np.einsum("nd,nd->n", b, b)
                squared -= 2 * np.matmul(q, b.T)
            # One integer holds distance and position: at most 2^16 d N, below 2^63 where `base` has below 2^47 bytes.
            keys = squared.astype(np.int64) * count + np.arange(columns.start, columns.stop)
            best = _smallest(np.concatenate([best, keys], axis=1), wanted)
        kept[rows] = best
    return kept % count, kept // count


def _smallest(keys: np.ndarray, wanted: int) -> np.ndarray:
    """(m, at most `wanted`) the smallest keys of each row, sorted."""
    if wanted < keys.shape[1]:
        keys = np.partition(keys, wanted - 1, axis=1)[:, :wanted]
    return np.sort(keys, axis=1)


def by_products(query: np.ndarray, base: np.ndarray, wanted: int, device: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """Compute |b|^2 - 2 q b by products of bytes summed in int32, for which GPUs and some processors have instructions.

    With AVX-512 VNNI this is several times as fast as float32.  Without these instructions, oneDNN adds pairs of
    products in 16 bits, where they overflow.  Without oneDNN, torch uses a plain loop.

    Apart from the squares of all images, at most 2^29 bytes are on the device at once, because several jobs may share a
    GPU.  This holds for images of up to 2^22 pixels.

    Args:
        device: on which torch computes.
    Raises:
        RuntimeError: the device has no such products, too little memory, or another fault.
    """
    import torch

    pixels, wide = base.shape[1], torch.int32 if base.shape[1] <= BYTE_PIXELS else torch.int64
    images = max(ALIGNED, min(BYTE_IMAGES, BYTE_BLOCK // pixels))
    squares, own = torch.from_numpy(_signed_squares(base)).to(device, wide), _signed_squares(query)[:, None]
    candidates, values = (np.empty((len(query), wanted), np.int64) for _ in range(2))
    for rows in blocks(len(query), images):
        asked, count = torch.from_numpy(_signed(query[rows])).to(device), rows.stop - rows.start
        nearest = torch.empty((count, 0), dtype=torch.int64, device=device)
        least = torch.empty((count, 0), dtype=wide, device=device)
        for columns in blocks(len(base), images):
            stored = torch.from_numpy(_signed(base[columns])).to(device)
            squared = squares[columns].repeat(count, 1)
            for part in blocks(asked.shape[1], BYTE_PIXELS):
                products = torch.ops.aten._int_mm(asked[:, part], stored[:, part].T)
                squared.sub_(products[:count, : squared.shape[1]], alpha=2)
            smallest = squared.topk(min(wanted, squared.shape[1]), largest=False)
            nearest = torch.cat([nearest, smallest.indices + columns.start], dim=1)
            least = torch.cat([least, smallest.values], dim=1)
            if least.shape[1] > wanted:
                least, kept = least.topk(wanted, largest=False)
                nearest = nearest.gather(1, kept)
            del stored  # before the next ones are prepared
        candidates[rows], values[rows] = nearest.cpu().numpy(), least.cpu().numpy()
    return candidates, values + own


def _signed(images: np.ndarray) -> np.ndarray:
    """(m', d') int8 of (m, d) uint8, shifted from 0..255 to -128..127, which does not change differences.

    Rows and columns of zeros make both sizes multiples of ALIGNED, because products on a GPU allow few other sizes.
    """
    count, pixels = (-(-size // ALIGNED) * ALIGNED for size in images.shape)
    signed = np.zeros((count, pixels), np.uint8)
    np.bitwise_xor(images, 128, out=signed[: len(images), : images.shape[1]])
    return signed.view(np.int8)


def _signed_squares(images: np.ndarray) -> np.ndarray:
    """(m,) int64 |image|^2 of (m, d) uint8 shifted to -128..127; float32 sums FLOAT_PIXELS squares exactly."""
    squares = np.zeros(len(images), np.int64)
    for rows in blocks(len(images), ROWS):
        for pixels in blocks(images.shape[1], FLOAT_PIXELS):
            signed = images[rows, pixels].astype(np.float32) - 128
            squares[rows] += np.einsum("md,md->m", signed, signed).astype(np.int64)
    return squares


PIXELS = Engine("pixels", by_pixels)
FLOATS = Engine("float32 products", by_floats)
PRODUCTS = Engine("integer products", by_products)
PRODUCTS_GPU = Engine("integer products on a GPU", partial(by_products, device="cuda"))
