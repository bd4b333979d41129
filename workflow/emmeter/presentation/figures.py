"""The figures of a study, drawn from the rows of its tables."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emmeter.files.writing import replacing
from emmeter.measure.outcome import logit
from emmeter.presentation.style import (
    COLOURS,
    NAME,
    TITLE,
    TOGETHER,
    Axes,
    Figure,
    FixedLocator,
    LogLocator,
    LogNorm,
    NullLocator,
    ScalarMappable,
    colour,
    entitle,
    mark_levels,
    matplotlib,
    size_axis,
    subplots,
    used,
    wrapped,
)
from emmeter.presentation.tables import answer, images_and_budget
from emmeter.settings.sections import Figures

Row = dict[str, Any]


def number(text: str) -> float:
    """A cell as a number; empty cells are NaN."""
    return float(text) if text else math.nan


def subtitle(emm: Sequence[Row]) -> str:
    """The images and the training budget that EMMs belong to; empty where the arms differ in more than two ways."""
    told = list(dict.fromkeys(images_and_budget(arm) for arm in emm))
    return wrapped("; ".join(told), 100) if len(told) <= 2 else ""


def counted_rows(arm: Row, curves: Sequence[Row]) -> list[Row]:
    """The rows of an arm's snapshots that count, one a run: the last, or the one of the highest ratio."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in curves:
        if row["arm"] == arm["arm"]:
            runs.setdefault((row["n"], row["replicate"]), []).append(row)
    by = "progress" if arm["snapshot"] == "last" else "ratio"
    return [max(rows, key=lambda row: number(row[by])) for rows in runs.values()]


def level_of(arm: Row) -> float:
    """The ratio at which EMM lies, 0..1."""
    return 1 - float(arm["epsilon"])


def levels_of(emm: Sequence[Row]) -> list[float]:
    """The levels of all arms, highest first: one, unless they differ in epsilon."""
    return sorted({level_of(arm) for arm in emm}, reverse=True)


def draw_curves(study: Row, emm: Sequence[Row], curves: Sequence[Row], style: Figures) -> Figure:
    """Memorization ratio against N: every run, the fitted crossing of each arm, and the line that defines EMM.

    A few arms share one panel; many have one each, in which the curves of the others are grey.
    """
    few = len(emm) <= TOGETHER
    columns = 1 if few else 4
    count = 1 if few else math.ceil(len(emm) / columns)
    size = (style.width, style.width * 0.58) if few else (style.width, 0.6 + 0.3 * style.width * count)
    figure, panels = subplots(
        count, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    counted = [counted_rows(arm, curves) for arm in emm]
    for number_of, panel in enumerate(used(panels, 1 if few else len(emm))):
        mark_levels(panel, levels_of(emm if few else [emm[number_of]]))
        for index, (arm, rows) in enumerate(zip(emm, counted, strict=True)):
            if few:
                _draw_arm(panel, arm, rows, colour(index), 0.015 * index)
            elif index == number_of:
                _draw_arm(panel, arm, rows, COLOURS[0], 0.0)
                found = "?" if arm["status"] == "undetermined" else answer(arm)[0]
                panel.set_title(wrapped(f"{arm['arm']}: {found}", NAME), fontsize=8)
            else:
                _draw_line(panel, arm, rows, "#ccc", order=1)
    size_axis(panels[0, 0], [number(row["n"]) for row in curves] or [10, 100])
    panels[0, 0].set_ylim(-3, 103)
    title = wrapped(f"{study['title']}: where does memorization end?", TITLE)
    if few:
        axes = panels[0, 0]
        axes.set_ylabel("memorized images (%)")
        for level in levels_of(emm):
            text, place = f"{100 * level:.3g} %", axes.get_yaxis_transform()
            axes.text(1.01, 100 * level, text, transform=place, va="center", color="#444")
        entitle(axes, title, subtitle(emm))
        axes.legend(loc="lower left", title="filled: confirming runs, open: locating", alignment="left")
    else:
        panels[0, 0].set_xlabel("")
        unknown = "; ?: not determined" if any(arm["status"] == "undetermined" for arm in emm) else ""
        figure.supxlabel(f"training images N (filled: confirming runs, open: locating{unknown})", fontsize=9)
        figure.supylabel("memorized images (%)", fontsize=9)
        below = f" ({subtitle(emm)})" if subtitle(emm) else ""
        figure.suptitle(f"{title}\nEMM of each arm{below}", fontsize=10, fontweight="bold", ha="left", x=0.01)
    return figure


def _draw_arm(axes: Axes, arm: Row, rows: Sequence[Row], tint: str, shift: float) -> None:
    """The runs of one arm with their counting intervals, and its fitted line; `shift` is in octaves."""
    n = np.array([number(row["n"]) for row in rows])
    # Replicates of one size lie beside each other instead of on top, and so do arms.
    n = n * 2 ** (0.03 * (np.array([number(row["replicate"]) for row in rows]) - 2) / 2 + shift)
    ratio = 100 * np.array([number(row["ratio"]) for row in rows])
    errors = 100 * np.array([[number(row["ratio_low"]), number(row["ratio_high"])] for row in rows]).T
    confirm = np.array([row["role"] == "confirm" for row in rows])
    axes.errorbar(n, ratio, np.abs(errors - ratio), fmt="none", ecolor=tint, elinewidth=0.8, alpha=0.5)
    label = wrapped(f"{arm['arm']}: EMM {answer(arm)[0]}", 2 * NAME)
    axes.scatter(n[confirm], ratio[confirm], s=26, color=tint, zorder=3, label=label if confirm.any() else None)
    axes.scatter(
        n[~confirm], ratio[~confirm], s=26, facecolor="white", edgecolor=tint, zorder=3,
        label=None if confirm.any() else label,
    )  # fmt: skip
    _draw_line(axes, arm, rows, tint)


def _draw_line(axes: Axes, arm: Row, rows: Sequence[Row], tint: str, order: float = 2) -> None:
    """The fitted line of an arm that has one, in logits, over the sizes of its runs."""
    if not (arm["emm"] and arm["slope"]):
        return
    x = np.log2([number(row["n"]) for row in rows])
    x = np.linspace(x.min() - 0.3, x.max() + 0.3, 200)
    logits = logit(level_of(arm)) + number(arm["slope"]) * (x - math.log2(number(arm["emm"])))
    axes.plot(2**x, 100 / (1 + np.exp(-logits)), color=tint, lw=1.2, alpha=0.8, zorder=order)


def draw_emm(study: Row, emm: Sequence[Row], curves: Sequence[Row], style: Figures) -> Figure:
    """EMM of each arm with its 95 % interval; arrows where only a limit is known."""
    figure, axes = subplots(figsize=(style.width, 0.9 + 0.42 * len(emm)), layout="constrained")
    positions = list(range(len(emm)))[::-1]
    sizes = [number(arm[c]) for arm in emm for c in ("emm", "emm_low", "emm_high") if arm[c]]
    for index, (arm, y) in enumerate(zip(emm, positions, strict=True)):
        text, interval = answer(arm)
        low, high, middle = (number(arm[c]) for c in ("emm_low", "emm_high", "emm"))
        end = low
        if arm["status"] == "estimated":
            end = middle if math.isnan(high) else high
            axes.plot([low, high], [y, y], color=colour(index), lw=3, solid_capstyle="butt", alpha=0.45)
            axes.plot(middle, y, "o", color=colour(index), ms=7)
        elif arm["status"] in ("at_least", "below"):
            end = low if arm["status"] == "at_least" else high
            axes.plot(end, y, marker=(3, 0, -90 if arm["status"] == "at_least" else 90), color=colour(index), ms=10)
        label = f"{text}  ({interval})" if interval not in ("", "none") else text
        place = (end, y) if not math.isnan(end) else (float(np.median(sizes or [100])), y)
        axes.annotate(label, place, xytext=(9, 0), textcoords="offset points", va="center")
    axes.set_yticks(positions, [wrapped(arm["arm"], NAME) for arm in emm])
    axes.set_ylim(-0.6, len(emm) - 0.4)
    size_axis(axes, sizes or [10, 100])
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 1.6)  # room for the last label
    levels = [f"{100 * level:.3g} %" for level in levels_of(emm)]
    shares = " or ".join(levels) if len(levels) < 3 else f"{levels[-1]} to {levels[0]}"
    axes.set_xlabel(f"EMM: training images at which {shares} are memorized")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eee")
    axes.set_axisbelow(True)
    entitle(axes, wrapped(f"{study['title']}: effective model memorization", TITLE), subtitle(emm))
    return figure


def draw_progress(study: Row, emm: Sequence[Row], curves: Sequence[Row], style: Figures) -> Figure:
    """Ratio against training progress: a panel an arm, a line a run, dark for small N."""
    columns = min(len(emm), 4)
    count = math.ceil(len(emm) / columns)
    size = (style.width, 0.5 + 0.33 * style.width * count)
    figure, panels = subplots(
        count, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    sizes = [number(row["n"]) for row in curves]
    scale = LogNorm(min(sizes), max(sizes) * 1.3)
    map_ = matplotlib.colormaps["viridis"]
    for panel, arm in zip(panels.flat, emm, strict=False):
        mark_levels(panel, [level_of(arm)])
        rows = [row for row in curves if row["arm"] == arm["arm"]]
        for run in sorted({(number(row["n"]), row["replicate"]) for row in rows}):
            mine = [row for row in rows if (number(row["n"]), row["replicate"]) == run]
            panel.plot(
                [100 * number(row["progress"]) for row in mine],
                [100 * number(row["ratio"]) for row in mine],
                "o-", ms=3, lw=1.1, color=map_(scale(run[0])),
            )  # fmt: skip
        panel.set_title(wrapped(arm["arm"], NAME), fontsize=9)
        panel.set_ylim(-3, 103)
    used(panels, len(emm))
    panels[0, 0].set_ylabel("memorized images (%)")
    figure.supxlabel("share of the training budget (%)", fontsize=9)
    bar = figure.colorbar(ScalarMappable(scale, map_), ax=panels, label="training images N", aspect=25)
    ticks = sorted({min(sizes), *np.geomspace(min(sizes), max(sizes), 4).round(-1), max(sizes)} - {0})
    bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    title = wrapped(f"{study['title']}: when memorization sets in", TITLE)
    figure.suptitle(title, fontsize=10, fontweight="bold", ha="left", x=0.01)
    return figure


def draw_onset(study: Row, onsets: Sequence[Row], style: Figures) -> Figure:
    """Training images at which memorization sets in, against N: a point a run, with the line of growth like N."""
    figure, axes = subplots(figsize=(style.width, style.width * 0.58), layout="constrained")
    level = 100 * float(onsets[0]["level"]) if onsets else 50.0
    known = [row for row in onsets if row["onset_images"]]
    sizes = [number(row["n"]) for row in known]
    size_axis(axes, sizes or [10, 100])
    for index, arm in enumerate(dict.fromkeys(row["arm"] for row in onsets)):
        mine = [row for row in known if row["arm"] == arm]
        n, seen = (np.array([number(row[c]) for row in mine]) for c in ("n", "onset_images"))
        axes.scatter(n, seen, s=26, color=colour(index), label=wrapped(arm, NAME), zorder=3)
        if len(mine):
            x = np.geomspace(n.min(), n.max(), 2)
            middle = np.exp(np.log(seen / n).mean())
            label = "in proportion to N" if arm == known[0]["arm"] else None  # once is enough
            axes.plot(x, middle * x, color=colour(index), lw=1, ls=(0, (4, 3)), label=label)
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    axes.set_ylabel(f"training images seen when {level:g} % are memorized")
    axes.set_title(wrapped(study["title"], TITLE))
    missing = len(onsets) - len(known)
    few = len({row["arm"] for row in onsets}) <= TOGETHER
    place, loc = (axes, "upper left") if few else (figure, "outside right center")
    place.legend(loc=loc, title=f"runs without an onset: {missing}" if missing else None, alignment="left")
    return figure


def draw_gallery(study: Row, emm: Sequence[Row], galleries: Sequence[dict[str, np.ndarray]], style: Figures) -> Figure:
    """Generated images above their nearest training images: an arm a row, best matches left, worst right."""
    columns = style.gallery
    figure, panels = subplots(
        len(emm), 2, figsize=(style.width, 0.7 + style.width / (2 * columns) * 2.2 * len(emm)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, (arm, gallery) in enumerate(zip(emm, galleries, strict=True)):
        for column, kind in enumerate(("best", "worst")):
            axes = panels[row, column]
            rows = (gallery[f"{kind}_{of}"][:columns] for of in ("generated", "train"))
            axes.imshow(mosaic(*rows), vmin=0, vmax=255, cmap="gray", interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(f"{'best' if kind == 'best' else 'worst'} matches", fontsize=9)
        height = panels[row, 0].get_ylim()[0]
        panels[row, 0].set_yticks([0.25 * height, 0.75 * height], ["generated", "nearest in\ntraining set"])
        panels[row, 0].tick_params(axis="y", length=0, labelsize=7)
        panels[row, 0].set_ylabel(wrapped(arm["arm"], 16), fontweight="bold", fontsize=8)
    title = wrapped(f"{study['title']}: copies and non-copies near EMM", TITLE)
    figure.suptitle(title, fontsize=10, fontweight="bold", ha="left", x=0.01)
    return figure


def mosaic(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Two rows of (m, C, H, W) images as one picture, (2H + 1, m(W + 1) - 1) or with a last axis of 3 colours."""
    count, channels, height, width = top.shape
    picture = np.full((2 * height + 1, count * (width + 1) - 1, channels), 255, np.uint8)
    for row, images in enumerate((top, bottom)):
        for column, image in enumerate(images):
            y, x = row * (height + 1), column * (width + 1)
            picture[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return picture[..., 0] if channels == 1 else picture


def save(figure: Figure, stem: Path, dpi: int) -> None:
    """Write STEM.svg and STEM.png, the same bytes for the same figure."""
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        with replacing(stem.with_suffix(f".{kind}")) as temporary:
            figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata)
