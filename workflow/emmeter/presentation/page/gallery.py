"""Generated images of each arm above their nearest training images."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from emmeter.presentation.gallery_figure import Gallery, caption, chosen, ratio
from emmeter.presentation.page.parts import Example, Tile

COLUMNS = 8  # generated images per arm


def example(arm: str, shape: int, gallery: Gallery) -> Example:
    """Generated images of an arm, at even ranks of d1/d2."""
    tiles = []
    for position in chosen(gallery, COLUMNS):
        copy, quotient = bool(gallery["copy"][position]), ratio(gallery, position)
        images = [gallery[name][position] for name in ("generated", "nearest", "second")]
        alt = f"Generated image, its nearest and its second nearest training image; d1/d2 {quotient:.2f}, "
        tiles.append(Tile(column(images), alt + ("a near copy" if copy else "no copy"), f"{quotient:.2f}", copy))
    side = gallery["generated"].shape[-1]
    return Example(arm, shape, shape, caption(gallery), tiles, side, f"{side} / {3 * side + 2 * gap(side)}")


def column(images: Sequence[np.ndarray]) -> str:
    """Images (C, H, W) below one another, with transparent gaps between them: a PNG as the address of an image."""
    channels, height, width = images[0].shape
    step = height + gap(height)
    picture = np.zeros((len(images) * step - gap(height), width, channels + 1), np.uint8)
    for number, image in enumerate(images):
        top = number * step
        picture[top : top + height, :, :channels] = image.transpose(1, 2, 0)
        picture[top : top + height, :, channels] = 255
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def gap(side: int) -> int:
    """Pixels between two images of a column."""
    return max(1, side // 8)
