"""Formats of image files, by suffix and by first bytes, and the order of their names."""

import errno
import re
import stat
from pathlib import Path

from emmeter.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
# Other formats of images, and arrays of images.  They are refused: if they were ignored, a folder would silently be
# smaller than it looks.  Raw photographs are TIFF files whose first image is only a preview.
OTHER_SUFFIXES = (
    ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpx", ".jxl", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga",
    ".psd", ".exr", ".hdr", ".dds", ".qoi", ".npy", ".npz",
    ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".3fr", ".iiq",
)  # fmt: skip
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
START = 64  # bytes that identify a format
_OTHER_STARTS = {
    b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL", b"\xff\x0a": "JPEG XL",
    b"8BPS\0": "Photoshop", b"v/1\x01": "OpenEXR", b"DDS ": "DDS", b"qoif": "QOI",
}  # fmt: skip
_HEIF = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def natural(name: str) -> tuple[str, str]:
    """Sort key of names in natural order: `2` before `10`, with the digits of every script by their value.

    For numbers that are padded with zeros, this is the order of code points.  Names that differ only in how they write
    numbers (`1`, `01`) follow in the order of code points, so that a folder has a single order.
    """

    def number(match: re.Match[str]) -> str:
        digits = str(int(match[0]))
        return f"0{chr(len(digits))}{digits}"  # a number with fewer digits is smaller

    return re.sub(r"\d+", number, name), name


def is_picture(path: Path) -> bool:
    """True for a file that is an image by its suffix or, failing that, by its first bytes; it need not be readable.

    Raises:
        DataError: the file exists but cannot be opened.
    """
    if is_named(path):
        return True
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return kind(file.read(START)) is not None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # a link to a missing file or to itself
            return False
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def is_named(path: Path) -> bool:
    """True for a file whose suffix is that of an image format."""
    return path.name.lower().endswith(SUFFIXES + OTHER_SUFFIXES)


def kind(start: bytes) -> str | None:
    """The format of an image by its first bytes, or None if they are not those of an image."""
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
        return "BMP"  # the header's size as well, because a text may begin with BM
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        return "AVIF" if start[8:12].startswith(b"avi") else "HEIF"
    return next((name for magic, name in _OTHER_STARTS.items() if start.startswith(magic)), None)


def refusal(start: bytes) -> str:
    """The line about a file that Pillow does not open, from its first bytes: what is wrong, and what to do."""
    if not start:
        return "is empty"
    if (name := kind(start)) in FORMATS:
        return f"damaged, or a {name} image of a kind that cannot be read; convert it"
    if name is not None:
        return f"is a {name} image; images must be {', '.join(SUFFIXES)}; convert it"
    return f"is not a {', '.join(SUFFIXES)} image"
