"""A data set as uint8 (n, C, H, W) with square images and C = 1 or 3, and its facts before pixels are read."""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from emmeter.data.pictures import Shape
from emmeter.settings.sections import Data


@dataclass(frozen=True)
class Facts:
    """Numbers and shapes of a data set, known before its pixels are read."""

    images: int
    """Number of images of the used classes."""
    shape: Shape
    """(C, H, W) of one image after data.fit and downscaling."""
    class_counts: tuple[int, ...] | None
    """Images per used class, in the order of data.classes; None without labels."""
    stored_shape: Shape
    """(C, H, W) before downscaling.  If the images of a folder differ in size, that of the first image."""
    stored_counts: tuple[int, ...] | None
    """Images of all classes; None without labels."""
    second: "Facts | None" = None
    """Facts of data.mixture if it has a share; all other fields are about data.source."""

    @property
    def stored_images(self) -> int:
        """Number of images of all classes."""
        return self.images if self.stored_counts is None else sum(self.stored_counts)


@dataclass(frozen=True)
class Images:
    """A data set after class selection and downscaling."""

    images: np.ndarray
    """uint8 (n, C, H, W)."""
    labels: np.ndarray | None
    """int64 (n,), 0 to the number of used classes - 1, in the order of data.classes; None without labels."""
    indices: np.ndarray
    """int64 (n,), positions in the data set as stored, counted over all classes."""
    second: "Images | None" = None
    """Images of data.mixture if it has a share."""
    rows: np.ndarray | None = None
    """float (n, E), the embedding of each image, finite; None unless these are the labels."""


@dataclass(frozen=True)
class Copies:
    """Groups of equal images in a data set that has any."""

    same: np.ndarray
    """int64 (n,), for all images as stored: the position of the first image with the same content."""
    labels: np.ndarray | None
    """int64 (n,), classes as stored; None without labels."""


def parts(data: Data) -> list[Data]:
    """The sources of a data set, each as a data set of one source: one, or the two of a mixture."""
    alone = {"mixture": None, "mixture_share": 0.0}
    first = data.model_copy(update=alone)
    if not data.sources[1:]:
        return [first]
    return [first, data.model_copy(update=alone | {"source": data.mixture, "classes": data.mixture_classes})]


def digest(images: Images) -> str:
    """SHA-256 of a data set as it is used: pixels, labels, positions and embeddings of all images, of both sources of a
    mixture.
    """
    content = hashlib.sha256()
    for array in (images.images, images.labels, images.indices, images.rows):
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
    """(N, C, H, W) for images of any layout: (N, H, W), (N, H, W, C) or (N, C, H, W).

    The axis of length 1 or 3 holds the channels.  If both ends could, the square sides decide; (N, 3, 3, 3) is taken
    as channels last.
    """
    if images.ndim == 3:
        return images[:, None]
    last = images.shape[3] in (1, 3) and (images.shape[1] == images.shape[2] or images.shape[1] not in (1, 3))
    return images.transpose(0, 3, 1, 2) if last else images
