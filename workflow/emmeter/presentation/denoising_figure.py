"""The figure of the errors at single noise levels: where in the noise the networks of each arm memorize."""

import math
from collections.abc import Sequence

from emmeter.measure.by_noise import AtLevel
from emmeter.presentation.curves_figure import BOTTOM, LEFT, RIGHT
from emmeter.presentation.style import (
    INK,
    MUTED,
    NAME,
    NARROW,
    RULE,
    TOGETHER,
    Axes,
    Figure,
    Heading,
    log_axis,
    marker,
    placed,
    tint,
    titled,
    wrapped,
)
from emmeter.settings.sections import Figures

GAP = "held-out loss / training loss"
NEARNESS = "distance to optimum / to linear denoiser"
NOISE = "noise level sigma (log scale)"


def draw_denoising(found: Sequence[AtLevel], style: Figures, heading: Heading | None = None) -> Figure:
    """Held-out over training loss, and nearness to the optimum, against the noise level, one line per arm.

    Up to `TOGETHER` arms share panels.  Of more arms, every line is grey but those of the smallest and the largest gap.

    Args:
        found: at least one level of one arm.
    """
    width, wide = style.width, style.width >= NARROW
    arms = list(dict.fromkeys(level.arm for level in found))
    named = arms if len(arms) <= TOGETHER else _extremes(found, arms)
    columns, rows = (2, 1) if wide else (1, 2)
    inner, cell = (width - (LEFT + RIGHT) * columns) / columns, 0.36 * width if wide else 0.6 * width
    keys = math.ceil((len(named) + (len(named) < len(arms))) / (3 if wide else 1))
    below = 0.2 * keys + 0.1
    figure, _ = titled(width, below + rows * (BOTTOM + cell + 0.25), heading)
    for number, (name, values) in enumerate((
        (GAP, {level: level.gap for level in found}), (NEARNESS, {level: level.nearness for level in found}),
    )):  # fmt: skip
        row, column = divmod(number, columns)
        bottom = below + BOTTOM + (rows - 1 - row) * (BOTTOM + cell + 0.25)
        axes = placed(figure, LEFT + column * (inner + LEFT + RIGHT), bottom, inner, cell)
        _axes(axes, [value for value in values.values() if value and math.isfinite(value)], found)
        axes.set_title(name, fontsize=8.5, fontweight="normal", color=MUTED, pad=4)
        for arm in arms:
            own = [(level.sigma, value) for level, value in values.items() if level.arm == arm and value]
            colour, shape = _look(arm, named)
            label = wrapped(arm, NAME) if arm in named else "_"
            axes.plot(
                [sigma for sigma, _ in own], [value for _, value in own], color=colour, marker=shape, ms=4, lw=1.5,
                label=label, zorder=3 if arm in named else 1,
            )  # fmt: skip
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(named) < len(arms):
        handles += figure.axes[0].plot([], [], color=RULE, lw=1.5)
        labels += [f"{len(arms) - len(named)} other arms"]
    figure.legend(handles, labels, loc="lower left", ncols=3 if wide else 1, bbox_to_anchor=(0.06, 0.0))
    return figure


def nothing_denoised(style: Figures, heading: Heading | None = None) -> Figure:
    """A figure that says that no run has snapshots to measure."""
    figure, _ = titled(style.width, 0.5, heading)
    figure.text(0.1 / style.width, 0.1, "No run has its snapshots any more.", color=MUTED)
    return figure


def _extremes(found: Sequence[AtLevel], arms: Sequence[str]) -> list[str]:
    """The arms with the smallest and the largest gap at any level, in their order."""
    largest = {arm: max((level.gap or 0.0 for level in found if level.arm == arm), default=0.0) for arm in arms}
    chosen = {min(largest, key=largest.__getitem__), max(largest, key=largest.__getitem__)}
    return [arm for arm in arms if arm in chosen]


def _look(arm: str, named: Sequence[str]) -> tuple[str, str]:
    if arm not in named:
        return RULE, ""
    index = named.index(arm)
    return tint(index, len(named)), marker(index, len(named))


def _axes(axes: Axes, values: Sequence[float], found: Sequence[AtLevel]) -> None:
    """Prepare a panel with logarithmic axes and a line at 1."""
    sigmas = [level.sigma for level in found]
    low, high = min(sigmas) / 1.2, max(sigmas) * 1.2
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    log_axis(axes.xaxis, low, high, most=7, whole=False)
    axes.set_xlabel(NOISE)
    bottom, top = min([1.0, *values]) / 1.25, max([1.0, *values]) * 1.25
    axes.set_yscale("log")
    axes.set_ylim(bottom, top)
    log_axis(axes.yaxis, bottom, top, most=6, whole=False)
    axes.axhline(1, color=INK, lw=1, zorder=1)
