"""A data set in one form, uint8 (n, C, H, W) with square images and C = 1 or 3, and its facts before pixels are
read."""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from emmeter.data.pictures import Shape
from emmeter.settings.sections import Data


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before its pixels are read."""

    images: int  # of the used classes
    shape: Shape  # of one image after data.fit and downscaling
    class_counts: tuple[int, ...] | None  # images of each used class, in the order of data.classes; None: no labels
    stored_shape: Shape  # before downscaling; of a folder whose images differ in size, that of the first
    stored_counts: tuple[int, ...] | None  # of all classes
    second: "Facts | None" = None  # of data.mixture, where it has a share; all else is of data.source


@dataclass(frozen=True)
class Images:
    """A data set after class selection and downscaling."""

    images: np.ndarray  # uint8 (n, C, H, W)
    labels: np.ndarray | None  # int64 (n,), 0 .. used classes - 1 in the order of data.classes; None: no labels
    indices: np.ndarray  # int64 (n,), positions in the data set as stored (all classes)
    second: "Images | None" = None  # of data.mixture, where it has a share


def mixture(data: Data) -> Data:
    """The second source of a mixture, as a data set of its own."""
    assert data.mixture is not None
    return data.model_copy(
        update={"source": data.mixture, "classes": data.mixture_classes, "mixture": None, "mixture_share": 0.0}
    )


def digest(images: Images) -> str:
    """SHA-256 of a data set as it is used: pixels, labels and positions of all images, of a mixture's second source
    too."""
    content = hashlib.sha256()
    for array in (images.images, images.labels, images.indices):
        if array is not None:
            content.update(f"{array.dtype} {array.shape} ".encode())
            content.update(np.ascontiguousarray(array).data)
    if images.second is not None:
        content.update(digest(images.second).encode())
    return content.hexdigest()


def downscale(images: np.ndarray, side: int) -> np.ndarray:
    """Resample uint8 (n, C, H, H) to (n, C, side, side) by Pillow's Lanczos filter, as the paper does."""
    if images.shape[2] == side:
        return np.ascontiguousarray(images)
    small = np.empty((*images.shape[:2], side, side), np.uint8)
    for target, image in zip(small, images, strict=True):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        resized = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
        target[:] = resized if len(image) == 1 else resized.transpose(2, 0, 1)
    return small


def channels_first(images: np.ndarray) -> np.ndarray:
    """(N, C, H, W) for any layout.

    The number of channels tells (N, H, W, C) from (N, C, H, W), and where both ends could be one, squareness;
    (N, 3, 3, 3) is channels last.
    """
    if images.ndim == 3:
        return images[:, None]
    last = images.shape[3] in (1, 3) and (images.shape[1] == images.shape[2] or images.shape[1] not in (1, 3))
    return images.transpose(0, 3, 1, 2) if last else images


@dataclass(frozen=True)
class Copies:
    """Which images of a data set are equal, where any are."""

    same: np.ndarray  # int64 (n,), position of the first image with the same content, of all images as stored
    labels: np.ndarray | None  # int64 (n,), classes as stored; None: no labels
