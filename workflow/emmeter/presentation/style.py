"""The style of all figures, independent of the user's settings of Matplotlib."""

import contextlib
import itertools
import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Hide the user's settings while Matplotlib is imported.

    Matplotlib looks for a settings file in the working folder, at the path in MATPLOTLIBRC, and in the user's home.
    """
    names = ("MPLBACKEND", "MATPLOTLIBRC", "FREETYPE_PROPERTIES")
    users = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["MATPLOTLIBRC"] = os.devnull  # a file without settings, which precedes the one in the home
    try:
        with contextlib.chdir(Path(__file__).parent) if os.path.exists("matplotlibrc") else contextlib.nullcontext():
            yield
    finally:
        del os.environ["MATPLOTLIBRC"]
        os.environ.update(users)


# Names that `figures` imports from here, too.  Not pyplot, which would choose a backend and read the user's styles.
with untouched():
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable  # noqa: F401
    from matplotlib.colors import LogNorm  # noqa: F401
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator


# Text in these colours has a contrast of at least 4.5 on white.  The six of the series stay apart for readers with any
# kind of colour blindness, and differ in their markers as well.
INK, MUTED, RULE, PAPER = "#1b1d21", "#5b6168", "#dcdfe4", "#ffffff"
SERIES = ("#1166b1", "#c04a09", "#0d8061", "#7d2a64", "#3f2c0b", "#6f7682")
MARKERS = "os^DvP"
TOGETHER = 6  # largest number of arms in one panel, each with its own colour and marker
NARROW = 5.0  # inches; a narrower figure is one for phones
NAME = 24  # characters per line of an arm's name
STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "text.parse_math": False,  # an arm may be named $b$
    "svg.hashsalt": "emm",  # the same figure gives the same bytes
    "svg.fonttype": "none",
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Use Matplotlib's own defaults with our style, and no settings of this process."""
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context(defaults | STYLE):
        yield


def subplots(rows: int = 1, columns: int = 1, *, squeeze: bool = True, **options: Any) -> tuple[Figure, Any]:
    """A figure and its panels: one Axes, or with ``squeeze=False`` an array of them (rows, columns).

    Args:
        options: `sharex`, `sharey`, `width_ratios` and `height_ratios` of the panels; all others are options of the
            figure.
    """
    names = ("sharex", "sharey", "width_ratios", "height_ratios")
    shared = {name: options.pop(name) for name in names if name in options}
    figure = Figure(**options)
    return figure, figure.subplots(rows, columns, squeeze=squeeze, **shared)


def tint(index: int, count: int) -> str:
    """The colour of the arm at a position, 0, 1, ..., among `count` arms; more than `TOGETHER` arms share one."""
    return SERIES[index] if count <= TOGETHER else SERIES[0]


def marker(index: int, count: int) -> str:
    """The marker of the arm at a position among `count` arms, as `tint` gives its colour."""
    return MARKERS[index] if count <= TOGETHER else MARKERS[0]


STEPS = (
    tuple(tenths / 10 for tenths in range(10, 100)),
    (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8),
    (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
    (1, 1.5, 2, 3, 4, 6, 8),
    (1, 2, 3, 5),
    (1, 2, 5),
    (1, 3),
    (1,),
)


def round_numbers(low: float, high: float, most: int, whole: bool = True) -> list[float]:
    """Round numbers between two positive ones, at most `most`, as evenly dense on a logarithmic axis as they can be.

    Args:
        whole: give whole numbers only.
    """
    gap = 0.6 * math.log(high / low) / most
    chosen: list[float] = []
    for steps in STEPS:
        tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        values = [float(f"{step * 10.0**ten:.6g}") for ten in tens for step in steps]
        chosen = [value for value in values if low <= value <= high and (not whole or value == int(value))]
        gaps = [math.log(b / a) for a, b in itertools.pairwise(chosen)]
        if len(chosen) <= most and min(gaps, default=math.inf) >= gap:
            return chosen
    return chosen[:: math.ceil(len(chosen) / most)]


def log_axis(axis: Axis, low: float, high: float, most: int = 7, whole: bool = True) -> None:
    """Give a logarithmic axis plain round numbers."""
    axis.set_major_locator(FixedLocator(round_numbers(low, high, most, whole)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def size_axis(axes: Axes, low: float, high: float, most: int = 7) -> None:
    """Make the x axis a logarithmic axis of N from `low` to `high`."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    log_axis(axes.xaxis, low, high, most)
    axes.set_xlabel("N, training images (log scale)")


def share_axis(axes: Axes, levels: Sequence[float], shares: Sequence[int] = (0, 20, 40, 60, 80, 100)) -> None:
    """Make the y axis one of shares in per cent, with a dashed line and a bold number at each level (0..1)."""
    marks = [100 * level for level in levels]
    plain = [share for share in shares if all(abs(share - mark) > 4 for mark in marks)]
    axes.set_ylim(-3, 104)
    axes.set_yticks([*plain, *marks], [f"{share:.3g}\u00a0%" for share in [*plain, *marks]])
    for label in axes.get_yticklabels()[len(plain) :]:
        label.set(color=INK, fontweight="bold")
    axes.tick_params(axis="y", length=0)
    axes.spines.left.set_visible(False)
    for share in plain:
        axes.axhline(share, color=RULE, lw=0.6, zorder=0)
    for mark in marks:
        axes.axhline(mark, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most `width` characters; names without spaces are broken as well."""
    return "\n".join(textwrap.wrap(text, width)) or text


@dataclass(frozen=True)
class Heading:
    """Text above a figure in a file: a bold title, and plain text below it.  A page has such text of its own."""

    title: str
    below: str = ""

    def lines(self, width: float) -> tuple[str, str]:
        """Title and text, broken for a figure of so many inches."""
        return wrapped(self.title, round(12.5 * width)), wrapped(self.below, round(15.5 * width))

    def height(self, width: float) -> float:
        """Inches that the heading takes."""
        title, below = self.lines(width)
        return 0.22 + 0.17 * (title.count("\n") + 1) + (0.15 * (below.count("\n") + 1) if below else 0)


def titled(width: float, height: float, heading: Heading | None) -> tuple[Figure, float]:
    """Make a figure with a heading above its body.

    Args:
        width, height: of the body, in inches.
    Returns:
        The figure, and the share of its height that the body takes.
    """
    above = heading.height(width) if heading else 0.0
    figure = Figure(figsize=(width, height + above))
    if heading:
        title, below = heading.lines(width)
        total = height + above
        figure.text(0.1 / width, 1 - 0.08 / total, title, fontsize=10, fontweight="bold", va="top", linespacing=1.2)
        start = 0.14 + 0.17 * (title.count("\n") + 1)
        figure.text(0.1 / width, 1 - start / total, below, fontsize=8, color=MUTED, va="top", linespacing=1.3)
    return figure, height / (height + above)


def placed(figure: Figure, left: float, bottom: float, width: float, height: float, **options: Any) -> Axes:
    """Add a panel at a place in inches from the lower left corner of the figure."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up), **options)
