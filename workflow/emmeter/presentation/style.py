"""The style of all figures, independent of the user's settings of Matplotlib."""

import contextlib
import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np


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
    from matplotlib.cm import ScalarMappable  # noqa: F401
    from matplotlib.colors import LogNorm  # noqa: F401
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator  # noqa: F401


# Okabe and Ito's colours, which colour-blind readers can distinguish, also in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7A7A7A")
TITLE, NAME = 60, 24  # characters per line of a title, and of an arm's name
TOGETHER = 6  # largest number of arms in one panel
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
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


def colour(index: int) -> str:
    """The colour of the arm at a position, 0, 1, ...; colours repeat after nine arms."""
    return COLOURS[index % len(COLOURS)]


def size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """Make the x axis a logarithmic axis of N, with plain numbers at doublings of a round number."""
    low, high = min(sizes), max(sizes)
    first = next(b for b in (1, 2, 4, 5, 10, 20, 25, 50, 100, 125, 250, 500, 1000) if b * 2 > low or b == 1000)
    ticks = [first * 2**i for i in range(20) if low / 1.5 <= first * 2**i <= high * 1.5]
    axes.set_xscale("log", base=2)
    axes.set_xlim(low / 1.3, high * 1.3)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.set_xlabel("training images N")


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most `width` characters; names without spaces are broken as well."""
    return "\n".join(textwrap.wrap(text, width)) or text


def entitle(axes: Axes, title: str, below: str) -> None:
    """Set a bold title with plain text below it."""
    axes.set_title(title, pad=8 + 11 * (below.count("\n") + 1 if below else 0))
    axes.annotate(
        below, (0, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points", fontsize=8, color="#555"
    )


def used(panels: np.ndarray, count: int) -> list[Axes]:
    """The first `count` panels of a grid; the others are hidden, and the panels above them get labels of the x axis."""
    for panel in panels.flat[count:]:
        panel.set_visible(False)
    for panel in panels.flat[max(count - panels.shape[1], 0) : count]:
        panel.tick_params(labelbottom=True)
    return list(panels.flat[:count])


def mark_levels(axes: Axes, levels: Sequence[float]) -> None:
    """Draw a dashed line at each level (0..1) of an axis in per cent."""
    for level in levels:
        axes.axhline(100 * level, color="#444", lw=1, ls=(0, (4, 3)), zorder=1)
