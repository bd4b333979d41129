"""One image file as uint8 pixels, as a viewer shows it: head, orientation, square.

An image that 8 bits in grey or RGB cannot represent exactly is refused, never converted with a loss.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from emmeter.data.formats import FORMATS, OTHER_SUFFIXES, START, SUFFIXES, refusal
from emmeter.errors import DataError, reason
from emmeter.files.reading import regular

Shape = tuple[int, int, int]  # (channels, height, width)
Fit = Literal["crop", "pad"]
_READERS = 16  # files whose heads are read at once, because reading over a network is mostly waiting
_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _SAMPLES, _SAMPLE_FORMAT, _SUBFILE, _DNG = 258, 277, 339, 254, 50706  # TIFF tags


def heads(paths: Sequence[Path]) -> list[Shape | DataError]:
    """The result of `head` for each file, or the error that it raises; many files are read at once."""
    with _quiet(), ThreadPoolExecutor(_READERS) as pool:
        if paths:
            _attempt(paths[0])  # loads Pillow's formats, which threads must not do at the same time
        return list(pool.map(_attempt, paths))


def _attempt(path: Path) -> Shape | DataError:
    try:
        return _opened_head(path)
    except DataError as error:
        return error


def head(path: Path) -> Shape:
    """(C, H, W) of an image as a viewer shows it, from its head alone.

    Raises:
        DataError: the image cannot be read, or has no exact uint8 form.
    """
    with _quiet():
        return _opened_head(path)


def _opened_head(path: Path) -> Shape:
    with _opened(path) as (image, start):
        return _shape(path, image, start)


def decode(path: Path, check: Callable[[Shape], None] = lambda _: None, content: bytes | None = None) -> np.ndarray:
    """uint8 (C, H, W), turned as the file's orientation tag demands.

    Args:
        check: called with the shape before any pixel is decoded; may raise to refuse the image.
        content: the bytes of the image, if they are not those of a file `path`, which then only names the image.

    Raises:
        DataError: the image cannot be read, or has no exact uint8 form.
    """
    with _quiet(), _opened(path, content) as (image, start):
        shape = _shape(path, image, start)
        check(shape)
        image.load()
        pixels = image
        if image.format != "TIFF" and (turn := _TURNS.get(_orientation(image))) is not None:  # Pillow turns TIFF itself
            pixels = image.transpose(turn)
        if pixels.mode in ("1", "P"):
            pixels = pixels.convert("L" if pixels.mode == "1" else "RGB")
        array = np.asarray(pixels)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return np.ascontiguousarray(array[: shape[0]])  # the three channels of a grey palette are equal


def square(path: Path, shape: Shape, fit: Fit | None) -> Shape:
    """The shape (C, H, W) of an image after `squared`.

    Raises:
        DataError: the image is not square, and `fit` is None.
    """
    channels, height, width = shape
    if fit is None and height != width:
        raise DataError(
            f"{path}: must be square, found {width} x {height} pixels; crop it, or set data.fit: crop (or pad)"
        )
    side = max(height, width) if fit == "pad" else min(height, width)
    return channels, side, side


def squared(images: np.ndarray, fit: Fit | None) -> np.ndarray:
    """uint8 (..., H, W) as squares: `crop` keeps the middle, `pad` adds black at both ends of the shorter side.

    If the two sides differ by an odd number, the larger of the two cut or added parts is at the right or bottom.
    """
    height, width = images.shape[-2:]
    if fit is None or height == width:
        return images
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return images[..., top : top + side, left : left + side]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    padded = np.zeros((*images.shape[:-2], side, side), images.dtype)
    padded[..., top : top + height, left : left + width] = images
    return padded


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings: damage and images with too many pixels are errors of our own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[tuple[Image.Image, bytes]]:
    """An image of which only the head has been read, and its first bytes.  Raises DataError for every failure."""
    start = b""
    try:
        if path.name.lower().endswith(OTHER_SUFFIXES):
            raise DataError(f"{path}: images must be {', '.join(SUFFIXES)}; convert it")
        if content is None:
            regular(path)
        with path.open("rb") if content is None else io.BytesIO(content) as file:
            start = file.read(START)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > (limit := Image.MAX_IMAGE_PIXELS or 2**62):
                    raise DataError(f"{path}: has more than {limit} pixels")
                yield image, start
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DataError(f"{path}: {refusal(start)}") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: has more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:
        raise DataError(f"{path}: damaged, or cannot be read ({reason(error)})") from None


def _shape(path: Path, image: Image.Image, start: bytes) -> Shape:
    """(C, H, W) of an opened image.  Raises DataError for an image that has no exact uint8 form."""
    if obstacle := _obstacle(image, start):
        raise DataError(f"{path}: must be 8-bit grey or RGB without transparency, found {obstacle}; convert it")
    # An MPO, as many cameras and telephones write it, holds further pictures: previews, or views for a second eye.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise DataError(f"{path}: must be a single image, found {image.n_frames} frames")  # type: ignore[attr-defined]
    width, height = image.size
    # For a tag behind the pixels of a PNG, Pillow would decode them; `decode` finds that tag anyway.
    tagged = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    if width != height and tagged and _orientation(image) >= 5:
        width, height = height, width
    return 1 if image.mode in ("1", "L") or _grey_palette(image) else 3, height, width


def _obstacle(image: Image.Image, start: bytes) -> str:
    """The property of an opened image that 8 bits per channel in grey or RGB cannot represent; empty if none."""
    mode = image.mode
    if bits := _deep(image, start):
        return f"{bits} bits per channel"
    if mode not in ("1", "L", "P", "RGB") or "transparency" in image.info:
        return f"mode {mode}{' with transparency' if 'transparency' in image.info else ''}"
    if image.format == "PNG" and start[12:16] != b"IHDR":
        return "a PNG that does not begin with its header"
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if tags.get(_SUBFILE, 0) & 1 or _DNG in tags:
            return "a preview of a larger one"
        if set(_numbers(tags.get(_SAMPLE_FORMAT, 1))) != {1}:
            return "samples that are no unsigned integers"
        if (samples := tags.get(_SAMPLES, len(mode))) != (3 if mode == "RGB" else 1):
            return f"{samples} samples per pixel"
    if image.format == "BMP" and mode in ("1", "L"):
        bits = int.from_bytes(start[24:26] if start[14] == 12 else start[28:30], "little")
        if bits != {"1": 1, "L": 8}[mode]:  # Pillow reads them as if they had the usual number
            return f"{bits} bits per pixel with few greys"
    if image.format == "GIF" and image.tile and tuple(image.tile[0][1]) != (0, 0, *image.size):  # type: ignore[attr-defined]
        return "a frame that leaves a part of it empty"
    return ""


def _deep(image: Image.Image, start: bytes) -> int:
    """Bits per channel if more than 8, otherwise 0: Pillow silently cuts 16-bit colour to 8 bits."""
    bits = 8
    if image.format == "PNG":
        bits = start[24]
    elif image.format == "TIFF":
        bits = max(_numbers(image.tag_v2.get(_BITS, 1)))  # type: ignore[attr-defined]
    elif image.mode.startswith("I"):
        bits = 16
    return bits if bits > 8 else 0


def _numbers(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _grey_palette(image: Image.Image) -> bool:
    """True for an image whose palette holds only greys."""
    if image.mode != "P" or image.palette is None:
        return False
    order, colours = image.palette.getdata()
    values = np.frombuffer(bytes(colours), np.uint8)
    if order == "RGB;L":  # one channel after the other
        channels = values[: len(values) // 3 * 3].reshape(3, -1)
    elif order in ("RGB", "BGR", "RGBX", "BGRX"):
        channels = values[: len(values) // len(order) * len(order)].reshape(-1, len(order)).T[:3]
    else:
        return False
    return bool((channels == channels[0]).all())


def _orientation(image: Image.Image) -> int:
    """Orientation of the camera as EXIF numbers it, 1 to 8; 1 if it is not known, as viewers assume."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises errors of every kind
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
