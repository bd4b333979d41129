"""The style of all figures, whatever the user's own settings of Matplotlib are."""

import contextlib
import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Surroundings in which Matplotlib, while it is imported, finds no settings but its own.

    It would look for a file of settings in the folder worked in, where MATPLOTLIBRC says, and in the user's home.
    """
    names = ("MPLBACKEND", "MATPLOTLIBRC", "FREETYPE_PROPERTIES")
    users = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["MATPLOTLIBRC"] = os.devnull  # a file without settings, found before the one in the home
    try:
        with contextlib.chdir(Path(__file__).parent) if os.path.exists("matplotlibrc") else contextlib.nullcontext():
            yield
    finally:
        del os.environ["MATPLOTLIBRC"]
        os.environ.update(users)


with (
    untouched()
):  # for `figures`, too;  # pyplot is not among these: it would choose a backend, and read the styles of the user
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable  # noqa: F401
    from matplotlib.colors import LogNorm  # noqa: F401
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator  # noqa: F401


# Okabe and Ito's colours: told apart by colour-blind readers and in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7A7A7A")
TITLE, NAME = 60, 24  # characters in a line of a title, and of the name of an arm
TOGETHER = 6  # arms that one panel can hold
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
    """Matplotlib's own defaults with our style, whatever has been set in this process."""
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context(defaults | STYLE):
        yield


def subplots(rows: int = 1, columns: int = 1, *, squeeze: bool = True, **options: Any) -> tuple[Figure, Any]:
    """A figure and its panels: one Axes, or with ``squeeze=False`` an array of them (rows, columns).

    `options` are of the figure, apart from `sharex` and `sharey`.
    """
    shared = {name: options.pop(name) for name in ("sharex", "sharey") if name in options}
    figure = Figure(**options)
    return figure, figure.subplots(rows, columns, squeeze=squeeze, **shared)


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """A logarithmic axis of N with plain numbers at doublings of a round number."""
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
    """Text in lines of at most `width` characters; names without spaces too."""
    return "\n".join(textwrap.wrap(text, width)) or text


def entitle(axes: Axes, title: str, below: str) -> None:
    """A bold title with a plain line below it."""
    axes.set_title(title, pad=8 + 11 * (below.count("\n") + 1 if below else 0))
    axes.annotate(
        below, (0, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points", fontsize=8, color="#555"
    )


def used(panels: np.ndarray, count: int) -> list[Axes]:
    """The first `count` panels of a grid; the others vanish, and those above them get their labels of the x axis."""
    for panel in panels.flat[count:]:
        panel.set_visible(False)
    for panel in panels.flat[max(count - panels.shape[1], 0) : count]:
        panel.tick_params(labelbottom=True)
    return list(panels.flat[:count])


def mark_levels(axes: Axes, levels: Sequence[float]) -> None:
    """A dashed line at each level (0..1) of an axis in per cent."""
    for level in levels:
        axes.axhline(100 * level, color="#444", lw=1, ls=(0, (4, 3)), zorder=1)
