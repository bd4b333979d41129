"""Figures of shape.csv: ratios between the arms of a study, and their shares of copies; of one study or of all."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emmeter.presentation.style import (
    INK,
    MUTED,
    NAME,
    NARROW,
    PAPER,
    RULE,
    Axes,
    Figure,
    log_axis,
    subplots,
    tint,
    wrapped,
)
from emmeter.settings.sections import Figures

if TYPE_CHECKING:
    from pandas import DataFrame

Row = Mapping[str, Any]
RATIOS = {"emm_ratio": "EMM", "odds_ratio": "odds of a copy"}  # quantities of pairs of arms: of what
KINDS: Sequence[Mapping[str, Any]] = (  # of the legend
    {"label": "published", "marker": "D", "mfc": PAPER, "color": MUTED},
    {"label": "ours, 95 % interval", "marker": "o", "color": INK},
    {"label": "ours, beyond the confirming sizes", "marker": "o", "mfc": PAPER, "color": INK},
)


def draw_shape(rows: "DataFrame", titles: Mapping[str, str], below: str, style: Figures) -> Figure:
    """Draw our results beside the published ones.

    Args:
        rows: shape.csv.
        titles: of the studies by name.
        below: plain text below the title.
    """
    studies: dict[str, list[Row]] = {}
    for row in rows.to_dict("records"):
        studies.setdefault(row["study"], []).append(row)
    heights = [max(2.3, 1.1 + 0.25 * len(arms(study))) for study in studies.values()]
    lines = wrapped(below, round(15 * style.width))
    head = 0.62 + 0.17 * (lines.count("\n") + 1)  # inches for title, text and legend
    height = head + sum(heights)
    figure, panels = subplots(
        len(studies), 2, figsize=(style.width, height), squeeze=False, width_ratios=(1.5, 1), height_ratios=heights
    )
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - head / height))
    figure.text(0.01, 1 - 0.08 / height, "Ours beside the paper's, by shape", fontsize=11, fontweight="bold", va="top")
    figure.text(0.01, 1 - 0.34 / height, lines, fontsize=8, color=MUTED, va="top", linespacing=1.3)
    for (left, right), (name, study) in zip(panels, studies.items(), strict=True):
        _draw_ratios(left, study)
        left.set_title(wrapped(titles[name], 44), fontsize=9.5)
        _draw_percents(right, study)
    _legend(figure, rows, panels[0, 0], 1 - (head - 0.3) / height)
    return figure


def draw_study_shape(rows: "DataFrame", style: Figures) -> Figure:
    """Draw the results of one study beside the published ones, without a title.

    Args:
        rows: its rows of shape.csv.
    """
    study, width = rows.to_dict("records"), style.width
    ratios = max(1.5, 0.9 + 0.25 * len(arms(study)))
    narrow = width < NARROW
    kinds = 0.22 * (3 if narrow else 1)  # inches for the legend
    heights = [ratios, 2.6] if narrow else [max(2.4, ratios)]
    height = kinds + sum(heights)
    layout = (2, 1) if narrow else (1, 2)
    shares = {"height_ratios": heights} if narrow else {"width_ratios": (1.5, 1)}
    figure, panels = subplots(*layout, figsize=(width, height), squeeze=False, **shares)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - kinds / height))
    left, right = panels.flat
    _draw_ratios(left, study)
    _draw_percents(right, study)
    _legend(figure, rows, left, 1.0, columns=1 if narrow else len(KINDS))
    return figure


def _legend(figure: Figure, rows: "DataFrame", axes: Axes, top: float, columns: int = len(KINDS)) -> None:
    """Explain the markers above the panels; `top` is the upper edge as a share of the figure's height."""
    kinds = KINDS if "True" in rows["extrapolated"].tolist() else KINDS[:-1]
    handles = [axes.plot([], [], ms=5, lw=1.6, **kind)[0] for kind in kinds]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, top), ncols=columns, fontsize=8)


def arms(study: Sequence[Row]) -> list[str]:
    """The arms of a study in its order; the first is the baseline."""
    return list(dict.fromkeys(row["arm"] for row in study))


def in_order(study: Sequence[Row]) -> str:
    """How many pairs of arms have the same order as published, of those that both sides tell apart."""
    orders = [row["order"] for row in study]
    same, opposite = orders.count("same"), orders.count("opposite")
    if not same + opposite:
        return "no pair of arms that both tell apart"
    return f"same order in {same} of {same + opposite} pairs that both tell apart"


def _draw_ratios(axes: Axes, study: Sequence[Row]) -> None:
    """Draw the ratio of each arm to the first, published above ours, on a logarithmic axis."""
    baseline, *others = arms(study)
    ratios = [row for row in study if row["quantity"] in RATIOS and row["against"] == baseline]
    axes.axvline(1, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
    axes.set_xscale("log")
    for row in ratios:
        position = others.index(row["arm"])
        for side, shift, colour in (("published", -0.16, MUTED), ("ours", 0.16, tint(1 + position, 1 + len(others)))):
            _draw_interval(axes, row, side, position + shift, colour)
    axes.set_yticks(range(len(others)), [wrapped(arm, NAME) for arm in others])
    axes.set_ylim(len(others) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE)
    axes.set_axisbelow(True)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.8), max(high, 1.25))
    log_axis(axes.xaxis, *axes.get_xlim(), whole=False)
    kind = RATIOS[ratios[0]["quantity"]] if ratios else "no ratio"
    axes.set_xlabel(f"{kind}, arm / {wrapped(baseline, NAME)}\n{in_order(study)}")


def _draw_interval(axes: Axes, row: Row, side: str, y: float, colour: str) -> None:
    """Draw a value with its interval, or an arrow at a limit that stands alone."""
    value, low, high = (row[f"{side}{end}"] for end in ("", "_low", "_high"))
    marker, face = ("D", PAPER) if side == "published" else ("o", colour)
    if not math.isnan(value):
        ends = [value if math.isnan(end) else end for end in (low, high)]
        axes.plot(ends, [y, y], color=colour, lw=1.6, alpha=0.7)
        axes.plot(value, y, marker, mfc=face, color=colour, ms=5, zorder=3)
    elif math.isnan(low) != math.isnan(high):
        end, angle = (low, -90) if math.isnan(high) else (high, 90)
        axes.plot(end, y, marker=(3, 0, angle), mfc=face, color=colour, ms=8)
    elif not math.isnan(low):
        axes.plot([low, high], [y, y], color=colour, lw=1.6, ls=":")


def _draw_percents(axes: Axes, study: Sequence[Row]) -> None:
    """Draw our shares of copies against the published ones, with the diagonal on which they are equal."""
    names = arms(study)
    axes.plot([0, 100], [0, 100], color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
    for row in study:
        if row["quantity"] == "percent" and not math.isnan(row["ours"]):
            x, y, colour = row["published"], row["ours"], tint(names.index(row["arm"]), len(names))
            face = PAPER if row["extrapolated"] == "True" else colour
            axes.plot([x, x], [row["ours_low"], row["ours_high"]], color=colour, lw=1.2, alpha=0.6)
            axes.plot(x, y, "o", color=colour, mfc=face, ms=5, zorder=3)
    axes.set_xlim(-4, 104)
    axes.set_ylim(-4, 104)
    axes.set_xticks(range(0, 101, 25))
    axes.set_yticks(range(0, 101, 25))
    axes.set_xlabel("published: copies (%)")
    axes.set_ylabel("ours: copies (%)")
    axes.set_title(_where(study, names[0]), fontsize=8, fontweight="normal")


def _where(study: Sequence[Row], baseline: str) -> str:
    """The sizes at which shares of copies are compared, in words."""
    for row in study:
        if row["quantity"] == "odds_ratio":
            return f"N: {row['published_n']:,.0f} published,\n{row['n']:,.0f} ours"
    return f"at equal multiples of\nEMM of {wrapped(baseline, NAME)}"
