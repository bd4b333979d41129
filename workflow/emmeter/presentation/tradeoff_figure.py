"""The figure of memorization against quality: share of copies of every run against the quality of its images."""

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING

from emmeter.measure.tradeoff import Point, means, points
from emmeter.presentation.curves_figure import BOTTOM, LEFT, RIGHT, counted_rows
from emmeter.presentation.style import (
    INK,
    MUTED,
    NAME,
    NARROW,
    PAPER,
    RULE,
    TOGETHER,
    Axes,
    Figure,
    Heading,
    log_axis,
    marker,
    placed,
    share_axis,
    tint,
    titled,
    wrapped,
)
from emmeter.settings.sections import Figures

if TYPE_CHECKING:
    from pandas import DataFrame

DISTANCE = "Fréchet distance in floors (log scale)"
PRECISION = "precision"


def study_points(emm: "DataFrame", curves: "DataFrame", quality: "DataFrame") -> list[Point]:
    """The runs of all arms of a study, each at the snapshot that counts.

    Args:
        emm, curves, quality: its tables of these names.
    """
    counted = [row for arm in emm.to_dict("records") for row in counted_rows(arm, curves).to_dict("records")]
    return points(counted, quality.to_dict("records"))


def draw_tradeoff(
    runs: Sequence[Point], levels: Sequence[float], style: Figures, heading: Heading | None = None
) -> Figure:
    """Share of copies against the Fréchet distance and the precision of every run, beside those of real images.

    A point is a run, open if it was not trained to the end.  A line leads through the mean distances of an arm from its
    smallest N to its largest.  Up to `TOGETHER` arms share panels.  More arms have one panel each, without precision.

    Args:
        runs: at least one, all of one space of features.
        levels: the shares that define EMM, 0 to 1.
    """
    arms = list(dict.fromkeys(run.arm for run in runs))
    draw = _together if len(arms) <= TOGETHER else _apart
    return draw(runs, arms, levels, style.width, heading)


def _together(
    runs: Sequence[Point], arms: Sequence[str], levels: Sequence[float], width: float, heading: Heading | None
) -> Figure:
    wide = width >= NARROW
    columns, rows = (2, 1) if wide else (1, 2)
    keys = math.ceil(len(arms) / (3 if wide else 1))
    inner, cell = (width - LEFT - RIGHT) / columns, 0.36 * width if wide else 0.6 * width
    below = 0.2 * keys + 0.1
    figure, _ = titled(width, below + rows * (BOTTOM + cell) + 0.1, heading)
    lines = [below + BOTTOM + (rows - 1 - row) * (BOTTOM + cell) for row in range(rows)]
    places = [(LEFT + column * inner, bottom) for bottom in lines for column in range(columns)]
    for (left, bottom), measure in zip(places, (DISTANCE, PRECISION), strict=True):
        axes = placed(figure, left, bottom, inner - 0.14, cell)
        _axes(axes, runs, measure, levels)
        for index, arm in enumerate(arms):
            _draw(axes, [run for run in runs if run.arm == arm], measure, tint(index, len(arms)),
                  marker(index, len(arms)), label=wrapped(arm, NAME))  # fmt: skip
        if left > LEFT:
            axes.tick_params(labelleft=False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower left", ncols=3 if wide else 1, bbox_to_anchor=(0.06, 0.0))
    return figure


def _apart(
    runs: Sequence[Point], arms: Sequence[str], levels: Sequence[float], width: float, heading: Heading | None
) -> Figure:
    columns = 4 if width >= NARROW else 2
    rows, inner, cell = math.ceil(len(arms) / columns), (width - LEFT - RIGHT) / columns, 1.3
    figure, _ = titled(width, BOTTOM + cell * rows + 0.05, heading)
    for index, arm in enumerate(arms):
        row, column = divmod(index, columns)
        panel = placed(
            figure, LEFT + inner * column, BOTTOM + cell * (rows - 1 - row), inner - 0.14, cell - 0.36
        )  # fmt: skip
        _axes(panel, runs, DISTANCE, levels, most=4, shares=(0, 50))
        panel.set_xlabel("")
        others = [run for run in runs if run.arm != arm]
        panel.scatter([run.distance for run in others], [100 * run.ratio for run in others], s=5, color=RULE, lw=0)
        _draw(panel, [run for run in runs if run.arm == arm], DISTANCE, tint(0, 1), "o", size=13)
        panel.set_title(wrapped(arm, 22), fontsize=8, loc="left", pad=3)
        panel.tick_params(labelsize=8, labelleft=column == 0, labelbottom=index + columns >= len(arms))
    figure.text(0.5, 0.08 / figure.get_figheight(), DISTANCE, ha="center", color=MUTED)
    return figure


def nothing_compared(style: Figures, heading: Heading | None = None) -> Figure:
    """A figure that says that no run has images to compare."""
    figure, _ = titled(style.width, 0.5, heading)
    figure.text(0.1 / style.width, 0.1, "No run has enough different images to compare.", color=MUTED)
    return figure


def _value(run: Point, measure: str) -> float:
    return run.distance if measure == DISTANCE else run.measures["precision"]


def _axes(
    axes: Axes,
    runs: Sequence[Point],
    measure: str,
    levels: Sequence[float],
    *,
    most: int = 6,
    shares: Sequence[int] = (0, 20, 40, 60, 80, 100),
) -> None:
    """Prepare a panel: the axis of a measure, with a line where real images are, and the axis of shares."""
    share_axis(axes, levels, shares)
    values = [_value(run, measure) for run in runs]
    if measure == DISTANCE:
        real, ends = 1.0, (min(0.9, min(values) / 1.2), max(1.5, max(values) * 1.2))
        axes.set_xscale("log")
        axes.set_xlim(*ends)
        log_axis(axes.xaxis, *ends, most=most, whole=ends[1] / ends[0] > 10)
    else:
        real = median(run.floors["precision"] for run in runs)
        low = min(0.8, real - 0.05, min(values) - 0.05)  # a narrower axis would show chance as a difference
        axes.set_xlim(max(low, -0.02), 1.02)
        axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= 1.001])
    axes.axvline(real, color=INK, lw=1, zorder=1)
    axes.annotate(
        "real images", (real, 0), (-3 if measure == PRECISION else 3, 4), xycoords=("data", "axes fraction"),
        textcoords="offset points", rotation=90, ha="right" if measure == PRECISION else "left", va="bottom",
        fontsize=7.5, color=INK,
    )  # fmt: skip
    axes.set_xlabel(measure)


def _draw(
    axes: Axes, runs: Sequence[Point], measure: str, colour: str, shape: str, *, size: float = 24, label: str = ""
) -> None:
    """Draw the runs of one arm, and a line through their means from the smallest N to the largest."""
    groups = [[run for run in runs if run.n == mean.n] for mean in means(runs)]
    x = [fmean(_value(run, measure) for run in group) for group in groups]
    if measure == DISTANCE:  # most runs have nearly the same precision, between which a line would only zigzag
        axes.plot(x, [100 * fmean(run.ratio for run in group) for group in groups], color=colour, lw=1, alpha=0.55)
    faces = [PAPER if run.unfinished else colour for run in runs]
    values, shares = [_value(run, measure) for run in runs], [100 * run.ratio for run in runs]
    axes.scatter(values, shares, s=size, marker=shape, facecolor=faces, edgecolor=colour, lw=1, zorder=3)
    axes.plot(
        [], [], ls="", marker=shape, ms=5, color=colour, label=label
    )  # filled in the legend, whatever comes first
