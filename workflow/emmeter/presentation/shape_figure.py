"""The figure of shape.csv: one row per study, with ratios between its arms on the left and shares of copies right."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from emmeter.presentation.style import (
    NAME,
    Axes,
    Figure,
    LogLocator,
    NullLocator,
    colour,
    subplots,
    wrapped,
)
from emmeter.settings.sections import Figures

if TYPE_CHECKING:
    from pandas import DataFrame

LABELS = {"emm_ratio": "EMM", "odds_ratio": "odds of a copy"}
GREY = "#777"  # of published numbers


def draw_shape(rows: "DataFrame", titles: Mapping[str, str], below: str, style: Figures) -> Figure:
    """Draw our results beside the published ones.

    Args:
        rows: shape.csv.
        titles: of the studies by name.
        below: plain text below the title.
    """
    studies = [rows[rows["study"] == name] for name in rows["study"].unique()]
    names = [_names(study) for study in studies]
    heights = [max(2.3, 1.1 + 0.25 * len(arms)) for arms in names]
    lines = wrapped(below, round(15 * style.width))
    head = 0.62 + 0.17 * (lines.count("\n") + 1)  # inches for title, text and legend
    height = head + sum(heights)
    figure, panels = subplots(
        len(studies), 2, figsize=(style.width, height), squeeze=False, layout="constrained",
        width_ratios=(1.5, 1), height_ratios=heights,
    )  # fmt: skip
    if (engine := figure.get_layout_engine()) is not None:
        engine.set(rect=(0, 0, 1, 1 - head / height))
    figure.text(0.01, 1 - 0.08 / height, "Ours beside the paper's, by shape", fontsize=11, fontweight="bold", va="top")
    figure.text(0.01, 1 - 0.34 / height, lines, fontsize=8, color="#555", va="top", linespacing=1.3)
    kinds = (
        ("published", {"marker": "D", "mfc": "white", "color": GREY}),
        ("ours, 95 % interval", {"marker": "o", "color": colour(1)}),
        ("ours, beyond the confirming sizes", {"marker": "o", "mfc": "white", "color": colour(1)}),
    )
    handles = [panels[0, 0].plot([], [], ms=5, lw=1.6, label=label, **kind)[0] for label, kind in kinds]
    place = (0.0, 1 - (head - 0.3) / height)
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, ncols=3, fontsize=8)
    for (left, right), study, arms in zip(panels, studies, names, strict=True):
        _draw_ratios(left, study, arms)
        left.set_title(wrapped(titles[study["study"].iloc[0]], 44), fontsize=9.5)
        _draw_percents(right, study, arms)
    return figure


def in_order(study: "DataFrame") -> str:
    """How many pairs of arms have the same order as published, of those that both sides tell apart."""
    orders = study["order"].tolist()
    same, apart = orders.count("same"), orders.count("same") + orders.count("opposite")
    if not apart:
        return "no pair of arms that both tell apart"
    return f"same order in {same} of {apart} pairs that both tell apart"


def _names(study: "DataFrame") -> list[str]:
    """The arms of a study in its order; the first is the baseline."""
    pairs = study[study["quantity"].isin(list(LABELS))]
    return list(dict.fromkeys([*pairs["against"][:1], *study["arm"]]))


def _draw_ratios(axes: Axes, study: "DataFrame", arms: Sequence[str]) -> None:
    """Draw the ratio of each arm to the first, published above ours, on a logarithmic axis."""
    baseline, *others = arms
    ratios = study[study["quantity"].isin(list(LABELS)) & (study["against"] == baseline)].set_index("arm")
    axes.axvline(1, color="#444", lw=1, ls=(0, (4, 3)), zorder=1)
    axes.set_xscale("log")
    for position, arm in enumerate(others):
        if arm in ratios.index:
            row = ratios.loc[arm]
            sides = (("published", position - 0.16, GREY), ("ours", position + 0.16, colour(1 + position)))
            for side, y, tint in sides:
                _draw_interval(axes, *(float(row[f"{side}{end}"]) for end in ("", "_low", "_high")), y, tint, side)
    axes.set_yticks(range(len(others)), [wrapped(arm, NAME) for arm in others])
    axes.set_ylim(len(others) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eee")
    axes.set_axisbelow(True)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.8), max(high, 1.25))
    steps = (1, 2, 5) if high / low < 300 else (1,)
    axes.xaxis.set_major_locator(LogLocator(10, steps if high / low > 10 else (1, 1.5, 2, 3, 4, 5, 7)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.set_xlabel(f"{LABELS[ratios['quantity'].iloc[0]]}, arm / {baseline}\n{in_order(study)}")


def _draw_interval(axes: Axes, value: float, low: float, high: float, y: float, tint: str, side: str) -> None:
    """Draw a value with its interval, or an arrow at a limit that stands alone."""
    shape, face = ("D", "white") if side == "published" else ("o", tint)
    if not math.isnan(value):
        ends = [value if math.isnan(end) else end for end in (low, high)]
        axes.plot(ends, [y, y], color=tint, lw=1.6, alpha=0.7)
        axes.plot(value, y, shape, mfc=face, color=tint, ms=5, zorder=3)
    elif math.isnan(low) != math.isnan(high):
        end, angle = (low, -90) if math.isnan(high) else (high, 90)
        axes.plot(end, y, marker=(3, 0, angle), mfc=face, color=tint, ms=8)
    elif not math.isnan(low):
        axes.plot([low, high], [y, y], color=tint, lw=1.6, ls=":")


def _draw_percents(axes: Axes, study: "DataFrame", arms: Sequence[str]) -> None:
    """Draw our shares of copies against the published ones, with the diagonal on which they are equal."""
    axes.plot([0, 100], [0, 100], color="#444", lw=1, ls=(0, (4, 3)), zorder=1)
    shares = study[study["quantity"] == "percent"].dropna(subset="ours")
    for row in shares.to_dict("records"):
        tint = colour(arms.index(row["arm"]))
        x, y = row["published"], row["ours"]
        axes.plot([x, x], [row["ours_low"], row["ours_high"]], color=tint, lw=1.2, alpha=0.6)
        axes.plot(x, y, "o", color=tint, mfc="white" if row["extrapolated"] == "True" else tint, ms=5, zorder=3)
    axes.set_xlim(-4, 104)
    axes.set_ylim(-4, 104)
    axes.set_xticks(range(0, 101, 25))
    axes.set_yticks(range(0, 101, 25))
    axes.set_xlabel("published: copies (%)")
    axes.set_ylabel("ours: copies (%)")
    sizes = "at one size" if "odds_ratio" in set(study["quantity"]) else f"at equal multiples of\nEMM of {arms[0]}"
    axes.set_title(sizes, fontsize=8, fontweight="normal")
