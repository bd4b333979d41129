"""The glyphs of DejaVu Sans, the font that comes with matplotlib, as grey images with scripts as classes.

Outlines become pixels by integer arithmetic, because FreeType's grey levels differ between its versions.
"""

import hashlib
import importlib.util
import itertools
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emmeter.data.images import downscale
from emmeter.errors import DataError, reason

SIDE = 64  # pixels of an image
CLASSES = (
    *("LATIN", "CANADIAN", "ARABIC", "GREEK", "CYRILLIC", "BRAILLE", "MODIFIER", "BOX", "GEORGIAN"),
    "other",
)
"""First words of the characters' names in Unicode, by size of the class; all other words are the last class."""
COUNTS = (938, 394, 336, 297, 246, 240, 166, 127, 120, 2451)
"""Images per class."""
_DISTINCT = 8  # side, in pixels, at which no two images are equal
_DIGEST = "539cbe85ecd067f3d7f177b1420ea98e55a2265d465db0504621a930de2f4556"  # of all images and labels
_EM = 2048  # units of the font; as many as the side of an image
_BASELINE = 483  # units between the baseline and the lower edge of an image: the font's descent
_PIECES = 8  # straight lines in place of a curve
_FINE = 2 * _PIECES**2  # parts of a unit, so that the ends of these lines are whole numbers
_ROWS = 8  # rows of a pixel in which coverage is computed
_CHUNK = 64  # glyphs drawn at once, to stay within the processor's cache


@dataclass(frozen=True)
class Outlines:
    """The outlines of g glyphs, as s straight lines in parts of a unit; y points upward."""

    codes: np.ndarray
    """int64 (g,), code points, ascending."""
    glyph: np.ndarray
    """int64 (s,), position of the line's glyph, ascending."""
    start: np.ndarray
    """int64 (s, 2), x and y of the line's start."""
    end: np.ndarray
    """int64 (s, 2), x and y of the line's end."""


def font() -> Path:
    """The font file of the installed matplotlib.

    Raises:
        DataError: it is not there.
    """
    spec = importlib.util.find_spec("matplotlib")  # which is not imported: this would take longer than drawing
    if spec is None or spec.origin is None:
        raise DataError("glyphs: not found; install matplotlib, which ships their font")
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    if not path.is_file():
        raise DataError(f"{path}: not found; install matplotlib again")
    return path


def read_glyphs() -> tuple[np.ndarray, np.ndarray]:
    """The glyphs of DejaVu Sans 2.37 in the order of code points: images uint8 (5315, 1, 64, 64), labels int64 (5315,).

    A glyph that looks like an earlier one at 8x8 pixels is left out.

    Raises:
        DataError: the font is missing or damaged, or holds other glyphs.
    """
    path = font()
    try:
        outlines = placed(read_outlines(path))
    except Exception as error:
        raise DataError(f"{path}: damaged ({reason(error)}); install matplotlib again") from None
    drawn = draw(outlines)[:, None]
    small = downscale(drawn, _DISTINCT)
    kept = np.sort(np.unique(small.reshape(len(small), -1), axis=0, return_index=True)[1])
    images, labels = drawn[kept], scripts(outlines.codes[kept])
    if hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() != _DIGEST:
        cure = "install the version of matplotlib that pyproject.toml names"
        raise DataError(f"{path}: holds other glyphs than DejaVu Sans 2.37; {cure}")
    return images, labels


def scripts(codes: np.ndarray) -> np.ndarray:
    """Classes of code points (g,): int64 (g,), positions in `CLASSES`."""
    # Unicode never changes a name, so all versions of Python agree on characters as old as these.
    words = (unicodedata.name(chr(code), "").partition(" ")[0] for code in codes.tolist())
    numbers = {word: number for number, word in enumerate(CLASSES)}
    return np.array([numbers.get(word, len(CLASSES) - 1) for word in words], np.int64)


def read_outlines(path: Path) -> Outlines:
    """The outlines of all characters of a TrueType font that have any.  Curves are split into straight lines.

    Raises:
        Exception: whatever fontTools finds wrong with the file.
    """
    from fontTools.ttLib import TTFont  # not at the top, because few jobs need it

    with TTFont(path, lazy=True) as file:
        characters, table = file.getBestCmap() or {}, file["glyf"]
        glyphs = {code: table[characters[code]].getCoordinates(table)[:3] for code in sorted(characters)}
    inked = {code: glyph for code, glyph in glyphs.items() if len(glyph[0])}
    sizes = [len(points) for points, _, _ in inked.values()]
    points = np.rint(np.concatenate([np.array(points, float) for points, _, _ in inked.values()])).astype(np.int64)
    on_curve = np.concatenate([np.frombuffer(bytes(flags), np.uint8) for _, _, flags in inked.values()]) & 1 == 1
    last = np.concatenate([np.array(lasts) for _, lasts, _ in inked.values()])  # point of each contour
    last += np.repeat(np.cumsum(sizes) - sizes, [len(lasts) for _, lasts, _ in inked.values()])
    glyph = np.repeat(np.arange(len(inked)), sizes)
    pieces = _lines(points, on_curve, last)
    glyph = np.concatenate([glyph[owner] for owner, _, _ in pieces])
    order = np.argsort(glyph, kind="stable")
    start, end = (np.concatenate([piece[i] for piece in pieces])[order] for i in (1, 2))
    return Outlines(np.array(list(inked), np.int64), glyph[order], start, end)


def _lines(points: np.ndarray, on_curve: np.ndarray, last: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Straight lines along the contours of TrueType glyphs, as (points that they belong to, starts, ends).

    Args:
        points: int64 (p, 2) in units, contour by contour.
        on_curve: bool (p,).  A point off the curve is the control point of a quadratic curve, which ends at the points
            on the curve beside it.  Between two points off the curve, one curve ends in the middle and another begins.
        last: int64, the position of the last point of each contour.
    """
    first = np.concatenate([[0], last[:-1] + 1])
    after, before = np.arange(len(points)) + 1, np.arange(len(points)) - 1
    after[last], before[first] = first, last
    line, curve = np.flatnonzero(on_curve & on_curve[after]), np.flatnonzero(~on_curve)
    pieces = [(line, points[line] * _FINE, points[after[line]] * _FINE)]
    control, ends = points[curve], [before[curve], after[curve]]
    start, end = (np.where(on_curve[at, None], 2 * points[at], points[at] + control) for at in ends)  # twice both
    weights = [(_PIECES - i, i) for i in range(_PIECES + 1)]
    course = [left**2 * start + 4 * left * right * control + right**2 * end for left, right in weights]
    return pieces + [(curve, here, there) for here, there in itertools.pairwise(course)]


def placed(outlines: Outlines) -> Outlines:
    """The outlines where an image of one em shows them, which reaches from (0, 0) to (em, em).

    All glyphs have one scale and stand on one baseline, in the middle between left and right.  A glyph larger than an
    em is reduced until it fits.  One that reaches beyond the upper or lower edge is moved to that edge.
    """
    em = _EM * _FINE
    extent = np.subtract(*_bounds(outlines)[::-1]).max(1)
    divisor = np.maximum(extent, em)[outlines.glyph, None]
    start, end = outlines.start * em // divisor, outlines.end * em // divisor
    low, high = _bounds(replace(outlines, start=start, end=end))
    left = (em - low[:, 0] - high[:, 0]) // 2
    lift = np.clip(_BASELINE * _FINE, -low[:, 1], em - high[:, 1])
    shift = np.stack([left, lift], axis=1)[outlines.glyph]
    return replace(outlines, start=start + shift, end=end + shift)


def _bounds(outlines: Outlines) -> tuple[np.ndarray, np.ndarray]:
    """The lower left and the upper right corner of each glyph, int64 (g, 2)."""
    first = np.searchsorted(outlines.glyph, np.arange(len(outlines.codes)))
    low = np.minimum.reduceat(np.minimum(outlines.start, outlines.end), first)
    return low, np.maximum.reduceat(np.maximum(outlines.start, outlines.end), first)


def draw(outlines: Outlines) -> np.ndarray:
    """Draw outlines in white on black: uint8 (g, SIDE, SIDE), the covered share of each pixel times 255, rounded.

    The outline of a glyph winds around its inside.  Each row of a pixel that a line crosses is covered to the right of
    a rising line, and uncovered to the right of a falling one; overlapping parts count once.
    """
    images = np.empty((len(outlines.codes), SIDE, SIDE), np.uint8)
    for first in range(0, len(images), _CHUNK):
        lines = slice(*np.searchsorted(outlines.glyph, [first, first + _CHUNK]))
        part = images[first : first + _CHUNK]
        part[:] = _coverage(outlines.glyph[lines] - first, outlines.start[lines], outlines.end[lines], len(part))
    return images


def _coverage(glyph: np.ndarray, start: np.ndarray, end: np.ndarray, count: int) -> np.ndarray:
    """`draw` for lines from `start` to `end` (s, 2) of glyphs 0 .. count - 1 at positions `glyph` (s,)."""
    pixel = _EM * _FINE // SIDE
    row = pixel // _ROWS
    rising = end[:, 1] > start[:, 1]
    low, high = np.where(rising[:, None], start, end), np.where(rising[:, None], end, start)
    # A line crosses the rows whose middle lies between its ends, the lower end included.
    lowest, above = (-((row // 2 - height) // row) for height in (low[:, 1], high[:, 1]))
    crossed = above - lowest
    line = np.repeat(np.arange(len(glyph)), crossed)
    rows = np.arange(len(line)) - np.repeat(np.cumsum(crossed) - crossed - lowest, crossed)
    (x, y), (dx, dy) = low[line].T, (high - low)[line].T
    column, inside = np.divmod(x + dx * (rows * row + row // 2 - y) // dy, pixel)
    direction = np.where(rising, 1, -1)[line]
    cell = (glyph[line] * SIDE + SIDE - 1 - rows // _ROWS) * (SIDE + 2) + column  # the first row of pixels is on top
    size = count * SIDE * (SIDE + 2)
    change = np.bincount(cell, direction * (pixel - inside), size)
    change += np.bincount(cell + 1, direction * inside, size)
    whole = pixel * _ROWS
    winding = change.astype(np.int64).reshape(count, SIDE, SIDE + 2).cumsum(axis=2)[:, :, :SIDE]
    return (np.minimum(np.abs(winding), whole) * 255 + whole // 2) // whole
