"""One image file as uint8 pixels, as a viewer shows it: formats, heads, orientation, squares.

What has no faithful form of 8 bits in grey or RGB is refused, never converted with a loss.
"""

import errno
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from emmeter.errors import DataError, reason
from emmeter.files.reading import regular

Shape = tuple[int, int, int]  # (channels, height, width)
Fit = Literal["crop", "pad"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
# Images all the same, and arrays of them: a folder must not shrink by them without a word, so they are refused.
# Photographs as the sensor has seen them are TIFF files whose first image is a mere preview.
_OTHER_SUFFIXES = (
    ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga",
    ".psd", ".exr", ".hdr", ".dds", ".qoi", ".npy", ".npz",
    ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".3fr", ".iiq",
)  # fmt: skip
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
_OTHER_STARTS = {  # first bytes of other formats of images
    b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL", b"\xff\x0a": "JPEG XL",
    b"8BPS\0": "Photoshop", b"v/1\x01": "OpenEXR", b"DDS ": "DDS", b"qoif": "QOI",
}  # fmt: skip
_HEIF = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_START = 64  # bytes that tell a format
_READERS = 16  # files whose heads are read at once: over a network most of the time is waiting
_ORIENTATION = 0x0112  # tag of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS, _SAMPLES, _SAMPLE_FORMAT, _SUBFILE, _DNG = 258, 277, 339, 254, 50706  # tags of TIFF


def natural(name: str) -> tuple[str, str]:
    """Sort key of names in natural order: `2` before `10`, digits of every script by their value.

    Where numbers are padded with zeros this is the order of code points.  Names that differ in nothing but how they
    write numbers (`1`, `01`) follow in the order of code points, so that the order of a folder is always the same.
    """

    def number(match: re.Match[str]) -> str:
        digits = str(int(match[0]))
        return f"0{chr(len(digits))}{digits}"  # a shorter number is a smaller one

    return re.sub(r"\d+", number, name), name


def is_picture(path: Path) -> bool:
    """Whether a file is an image, readable here or not: by its suffix, and where that is none of ours by its start.

    Raises DataError for a file that cannot be opened, unless it is not there.
    """
    if is_named(path):
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return _kind(file.read(_START)) is not None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # a link to nothing or to itself
            return False
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def is_named(path: Path) -> bool:
    """Whether the suffix of a file is one of images."""
    return path.name.lower().endswith(SUFFIXES + _OTHER_SUFFIXES)


def _kind(start: bytes) -> str | None:
    """The format of an image by its first bytes; None: no image."""
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return "BMP"  # two letters alone may begin a text
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        return "AVIF" if start[8:12].startswith(b"avi") else "HEIF"
    return next((kind for magic, kind in _OTHER_STARTS.items() if start.startswith(magic)), None)


def heads(paths: Sequence[Path]) -> list[Shape | DataError]:
    """What `head` returns or raises for each file, many at once."""
    with _quiet(), ThreadPoolExecutor(_READERS) as pool:
        if paths:
            _attempt(paths[0])  # loads Pillow's formats, which threads must not do together
        return list(pool.map(_attempt, paths))


def _attempt(path: Path) -> Shape | DataError:
    try:
        return _opened_head(path)
    except DataError as error:
        return error


def head(path: Path) -> Shape:
    """(C, H, W) of an image as a viewer shows it, from its head alone.  Raises DataError for what cannot be read."""
    with _quiet():
        return _opened_head(path)


def _opened_head(path: Path) -> Shape:
    with _opened(path) as (image, start):
        return _shape(path, image, start)


def decode(path: Path, check: Callable[[Shape], None] = lambda _: None) -> np.ndarray:
    """uint8 (C, H, W), turned as the file says.  `check` sees the shape before any pixel is decoded, and may raise.

    Raises DataError for what has no faithful form of that kind.
    """
    with _quiet(), _opened(path) as (image, start):
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
    return np.ascontiguousarray(array[: shape[0]])  # of a palette of greys all three are equal


def square(path: Path, shape: Shape, fit: Fit | None) -> Shape:
    """The shape of an image after `squared`.  Raises DataError for one that is not square and stays so."""
    channels, height, width = shape
    if fit is None and height != width:
        raise DataError(
            f"{path}: must be square, found {width} x {height} pixels; crop it, or set data.fit: crop (or pad)"
        )
    side = max(height, width) if fit == "pad" else min(height, width)
    return channels, side, side


def squared(images: np.ndarray, fit: Fit | None) -> np.ndarray:
    """uint8 (..., H, W) as squares: `crop` keeps the middle, `pad` puts black at both ends of the shorter side.

    Where a side differs from the square's by an odd number, the larger part is at the right or at the bottom.
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
    """Nothing of what Pillow warns of is printed; that an image has too many pixels is an error of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Image.Image, bytes]]:
    """An image of which only the head is read yet, and its first bytes.  Raises DataError for all that goes wrong."""
    start = b""
    try:
        if path.name.lower().endswith(_OTHER_SUFFIXES):
            raise DataError(f"{path}: images must be {', '.join(SUFFIXES)}; convert it")
        regular(path)
        with path.open("rb") as file:
            start = file.read(_START)
            file.seek(0)
            with Image.open(file, formats=_FORMATS) as image:
                if image.width * image.height > (most := Image.MAX_IMAGE_PIXELS or 2**62):
                    raise DataError(f"{path}: has more than {most} pixels")
                yield image, start
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DataError(f"{path}: {_unidentified(start)}") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: has more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:
        raise DataError(f"{path}: damaged, or cannot be read ({reason(error)})") from None


def _unidentified(start: bytes) -> str:
    kind = _kind(start)
    if not start:
        return "is empty"
    if kind in _FORMATS:
        return f"damaged, or a {kind} image of a kind that cannot be read; convert it"
    if kind is not None:
        return f"is a {kind} image; images must be {', '.join(SUFFIXES)}; convert it"
    return f"is not a {', '.join(SUFFIXES)} image"


def _shape(path: Path, image: Image.Image, start: bytes) -> Shape:
    """(C, H, W) of an opened image.  Raises DataError for what has no faithful uint8 form."""
    if found := _unfaithful(image, start):
        raise DataError(f"{path}: must be 8-bit grey or RGB without transparency, found {found}; convert it")
    # The other pictures of an MPO, as many cameras and telephones make them, are previews, or for a second eye.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise DataError(f"{path}: must be a single image, found {image.n_frames} frames")  # type: ignore[attr-defined]
    width, height = image.size
    # Pillow would decode a PNG to look for a tag behind its pixels; that one is found when they are wanted.
    known = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    if width != height and known and _orientation(image) >= 5:
        width, height = height, width
    return 1 if image.mode in ("1", "L") or _grey_palette(image) else 3, height, width


def _unfaithful(image: Image.Image, start: bytes) -> str:
    """Why 8 bits a channel in grey or RGB do not hold all of an opened image; empty: they do."""
    mode = image.mode
    if bits := _deep(image, start):
        return f"{bits} bits a channel"
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
            return f"{samples} samples a pixel"
    if image.format == "BMP" and mode in ("1", "L"):
        bits = int.from_bytes(start[24:26] if start[14] == 12 else start[28:30], "little")
        if bits != {"1": 1, "L": 8}[mode]:  # Pillow reads them as if they were
            return f"{bits} bits a pixel with few greys"
    if image.format == "GIF" and image.tile and tuple(image.tile[0][1]) != (0, 0, *image.size):  # type: ignore[attr-defined]
        return "a frame that leaves a part of it empty"
    return ""


def _deep(image: Image.Image, start: bytes) -> int:
    """Bits a channel where they are more than 8: Pillow cuts 16-bit colour to 8 bits without a word."""
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
    """Whether an image has a palette of nothing but greys."""
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
    """1 to 8, as EXIF numbers the ways that a camera may have been held; 1 where it is not known, as for viewers."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF: every kind of error
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
