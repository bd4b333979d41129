"""The main figure of a study: share of copies against N, and the EMM of each arm with its interval."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from emmeter.measure.outcome import logit
from emmeter.presentation.style import (
    INK,
    MUTED,
    NARROW,
    PAPER,
    RULE,
    TOGETHER,
    Axes,
    Figure,
    Heading,
    marker,
    placed,
    share_axis,
    size_axis,
    tint,
    titled,
    wrapped,
)
from emmeter.presentation.tables import answer, images_and_budget
from emmeter.settings.sections import Figures

if TYPE_CHECKING:
    from pandas import DataFrame

Row = Mapping[str, Any]
LEFT, RIGHT, BOTTOM = 0.52, 0.12, 0.5  # inches around a panel
LETTER = 0.068  # inches of an average letter of a label


def counted_rows(arm: Row, curves: "DataFrame") -> "DataFrame":
    """The rows of curves.csv that count for an arm, one per run: the last snapshot, or that of the highest ratio."""
    rows = curves[curves["arm"] == arm["arm"]]
    by = "progress" if arm["snapshot"] == "last" else "ratio"
    return rows.loc[rows.groupby(["n", "replicate"], sort=False)[by].idxmax()]


def arm_level(arm: Row) -> float:
    """The ratio that defines an arm's EMM, 0..1."""
    return 1 - arm["epsilon"]


def levels(emm: "DataFrame") -> list[float]:
    """The levels of all arms, highest first; a single one unless arms differ in epsilon."""
    return sorted({arm_level(arm) for arm in emm.to_dict("records")}, reverse=True)


def draw_curves(emm: "DataFrame", curves: "DataFrame", style: Figures, heading: Heading | None = None) -> Figure:
    """Share of copies against N: every run, the fitted line of each arm, the level that defines EMM, and each EMM.

    Up to `TOGETHER` arms share a panel.  A strip above it holds their EMMs and names, on the same axis of N.  More arms
    have one panel each, which shows the other arms' lines in grey.

    Args:
        emm: emm.csv of the study.
        curves: curves.csv of the study.
    """
    draw = _together if len(emm) <= TOGETHER else _apart
    return draw(emm, curves, style.width, heading)


def _together(emm: "DataFrame", curves: "DataFrame", width: float, heading: Heading | None) -> Figure:
    """All arms in one panel, below a strip with their EMMs.

    A dotted line leads from where a curve meets the level up to its EMM.  So no label hides a point, and arms that
    coincide can be told apart.
    """
    arms, wide = emm.to_dict("records"), width >= NARROW
    height, row = (0.44 * width, 0.21) if wide else (0.72 * width, 0.36)  # a narrow strip has labels above its bars
    strip, inner = row * len(arms), width - LEFT - RIGHT
    figure, _ = titled(width, BOTTOM + height + strip + 0.26, heading)
    panel = placed(figure, LEFT, BOTTOM, inner, height)
    above = placed(figure, LEFT, BOTTOM + height, inner, strip, sharex=panel)
    low, high = size_limits(emm, curves)
    size_axis(panel, low, high, most=8 if wide else 6)
    share_axis(panel, levels(emm))
    above.set(ylim=(len(arms) - 0.5, -0.5), yticks=[])
    above.tick_params(bottom=False, labelbottom=False)
    above.spines[["bottom", "left"]].set_visible(False)
    what = "EMM, beside the sizes tried" if set(emm["rule"]) == {"grid"} else "EMM with its 95\u00a0% interval"
    above.annotate(
        what, (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", color=MUTED, fontsize=8.5
    )
    for index, arm in enumerate(arms):
        colour, shape = tint(index, len(arms)), marker(index, len(arms))
        _draw_runs(panel, arm, counted_rows(arm, curves), colour, shape, 26)
        draw_interval(above, arm, index + (0.0 if wide else 0.17), colour, shape)
        if has_line(arm):
            bottom = 100 * arm_level(arm)
            panel.vlines(arm["emm"], bottom, 104, color=colour, lw=1, ls=(0, (1, 2)), zorder=1)
            above.vlines(arm["emm"], index, len(arms) - 0.5, color=colour, lw=1, ls=(0, (1, 2)), zorder=1)
        _label(above, arm, index, colour, (low, high, inner), wide)
    return figure


def _label(axes: Axes, arm: Row, row: int, colour: str, span: tuple[float, float, float], wide: bool) -> None:
    """Write an arm's name and EMM beside its bar, on the side that has room, or above the bar of a narrow figure.

    Args:
        span: lowest and highest N of the axis, and its inches.
    """
    low, high, inches = span
    text = f"{arm['arm']} {label(arm)}"
    ends = [arm[end] for end in ("emm_low", "emm", "emm_high") if not math.isnan(arm[end])] or [low]

    def inch(n: float) -> float:
        return inches * math.log(n / low) / math.log(high / low)

    start, room = (inch(max(ends)) + 0.1, inches) if wide else (inch(min(ends)), inches)
    left = start + LETTER * len(text) <= room
    if wide:
        x, side = (start, "left") if left else (inch(min(ends)) - 0.1, "right")
    else:
        x, side = (start, "left") if left else (inches, "right")
    axes.text(
        x / inches, row if wide else row - 0.22, text, transform=axes.get_yaxis_transform(), ha=side, va="center",
        color=colour, fontweight="bold", fontsize=8.5,
    )  # fmt: skip


def _apart(emm: "DataFrame", curves: "DataFrame", width: float, heading: Heading | None) -> Figure:
    """One panel per arm; its EMM stands where its curve meets the level, and the other arms' lines are grey."""
    arms, wide = emm.to_dict("records"), width >= NARROW
    columns = 4 if wide else 2
    rows = math.ceil(len(arms) / columns)
    inner, cell = (width - LEFT - RIGHT) / columns, 1.3
    figure, _ = titled(width, BOTTOM + cell * rows + 0.05, heading)
    counted = {arm["arm"]: counted_rows(arm, curves) for arm in arms}
    lines = {arm["arm"]: np.column_stack(fitted(arm, counted[arm["arm"]]))[::8] for arm in arms if has_line(arm)}
    low, high = size_limits(emm, curves)
    for index, arm in enumerate(arms):
        row, column = divmod(index, columns)
        panel = placed(
            figure, LEFT + inner * column, BOTTOM + cell * (rows - 1 - row), inner - 0.1, cell - 0.36
        )  # fmt: skip
        size_axis(panel, low, high, most=4)
        share_axis(panel, [arm_level(arm)], (0, 50))
        others = [np.vstack([line, [math.nan, math.nan]]) for name, line in lines.items() if name != arm["arm"]]
        if others:  # one path with gaps is half as large as many
            panel.plot(*np.vstack(others).T, color=RULE, lw=1, zorder=0.5)
        _draw_runs(panel, arm, counted[arm["arm"]], tint(0, 1), "o", 13)
        draw_interval(panel, arm, 100 * arm_level(arm), INK, "o", 22)
        panel.set_title(wrapped(arm["arm"], 22), fontsize=8, loc="left", pad=3)
        panel.set_title(label(arm).partition(" (")[0], fontsize=8, loc="right", fontweight="normal", pad=3)
        panel.tick_params(labelsize=8, labelleft=column == 0, labelbottom=index + columns >= len(arms))
        panel.set_xlabel("")
    figure.text(0.5, 0.08 / figure.get_figheight(), "N, training images (log scale)", ha="center", color=MUTED)
    return figure


def size_limits(emm: "DataFrame", curves: "DataFrame") -> tuple[float, float]:
    """Ends of an axis that holds all sizes and all intervals."""
    sizes = [*curves["n"].tolist(), *emm[["emm_low", "emm_high"]].stack().dropna().tolist()] or [10, 100]
    return min(sizes) / 1.25, max(sizes) * 1.25


def label(arm: Row) -> str:
    """EMM with its interval, such as "27 (24 to 31)", "≥ 640" or "not determined"."""
    text, interval = answer(arm)
    return text if interval in ("", "none") else f"{text} ({interval})"


def has_line(arm: Row) -> bool:
    """Whether an arm has an EMM from a fitted line."""
    return not (math.isnan(arm["emm"]) or math.isnan(arm["slope"]))


def fitted(arm: Row, rows: "DataFrame") -> tuple[np.ndarray, np.ndarray]:
    """Points (200,) of the fitted line of an arm that has one, straight in logits: N and per cent."""
    x = np.log2([*rows["n"].tolist(), arm["emm"]])
    x = np.linspace(x.min() - 0.25, x.max() + 0.25, 200)
    logits = logit(arm_level(arm)) + arm["slope"] * (x - math.log2(arm["emm"]))
    return 2**x, 100 / (1 + np.exp(-logits))


def _draw_runs(axes: Axes, arm: Row, rows: "DataFrame", colour: str, shape: str, size: float) -> None:
    """Draw the runs of one arm with their counting intervals, open where they only located EMM, and the fitted line."""
    # Replicates of one size would hide each other.
    n = rows["n"].to_numpy() * 2 ** (0.03 * (rows["replicate"].to_numpy() - 2))
    ratio = 100 * rows["ratio"].to_numpy()
    axes.vlines(n, 100 * rows["ratio_low"], 100 * rows["ratio_high"], color=colour, lw=0.8, alpha=0.6, zorder=2)
    faces = [PAPER if role == "locate" else colour for role in rows["role"]]
    axes.scatter(n, ratio, s=size, marker=shape, facecolor=faces, edgecolor=colour, lw=1, zorder=3)
    if has_line(arm):
        axes.plot(*fitted(arm, rows), color=colour, lw=1.6, zorder=2)
    elif len(sizes := sorted(set(rows["n"]))) > 1:
        means = [ratio[rows["n"].to_numpy() == size].mean() for size in sizes]
        axes.plot(sizes, means, color=colour, lw=1, alpha=0.6, zorder=2)


def draw_interval(axes: Axes, arm: Row, y: float, colour: str, shape: str, size: float = 34) -> None:
    """Draw EMM with its interval at a height; an arrow stands for an arm of which only a limit is known."""
    low, middle, high = (arm[end] for end in ("emm_low", "emm", "emm_high"))
    if arm["status"] == "estimated":
        axes.hlines(y, *(middle if math.isnan(end) else end for end in (low, high)), color=colour, lw=2.4, zorder=4)
        axes.scatter(middle, y, s=size, marker=shape, facecolor=colour, edgecolor=PAPER, lw=1, zorder=5)
    elif arm["status"] in ("at_least", "below"):
        end, arrow = (low, ">") if arm["status"] == "at_least" else (high, "<")
        axes.scatter(end, y, s=size, marker=arrow, color=colour, lw=0, zorder=5)


def study_heading(study: Row, text: str, emm: "DataFrame", note: str = "") -> Heading:
    """The heading of a study's figure: its title with what was found, and the settings of the arms.

    Args:
        study: the description of the study, of which the title is used.
        text: what was found, as `sentences.finding` states it.
        note: how to read the figure; a sentence.
    """
    kinds = list(dict.fromkeys(images_and_budget(arm) for arm in emm.to_dict("records")))
    settings = f"{'; '.join(kinds)}." if len(kinds) <= 2 else ""
    return Heading(f"{study['title']}: {text}", f"{settings} {note}".strip())
