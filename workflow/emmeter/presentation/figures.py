"""The figures of a study, drawn from its tables."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emmeter.files.writing import replacing
from emmeter.measure.budget import Law
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

if TYPE_CHECKING:
    from pandas import DataFrame

Row = Mapping[str, Any]


def subtitle(emm: "DataFrame") -> str:
    """The images and the training budget of the arms; empty if there are more than two kinds."""
    kinds = list(dict.fromkeys(images_and_budget(arm) for arm in emm.to_dict("records")))
    return wrapped("; ".join(kinds), 100) if len(kinds) <= 2 else ""


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


def draw_curves(study: Row, emm: "DataFrame", curves: "DataFrame", style: Figures) -> Figure:
    """Memorization ratio against N: every run, the fitted line of each arm, and the level that defines EMM.

    Up to `TOGETHER` arms share one panel.  More arms have one panel each, which shows the other arms' lines in grey.

    Args:
        study: the description of the study, of which the title is used.
    """
    arms = emm.to_dict("records")
    together = len(arms) <= TOGETHER
    columns = 1 if together else 4
    count = 1 if together else math.ceil(len(arms) / columns)
    size = (style.width, style.width * 0.58) if together else (style.width, 0.6 + 0.3 * style.width * count)
    figure, panels = subplots(
        count, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    counted = [counted_rows(arm, curves) for arm in arms]
    for position, panel in enumerate(used(panels, 1 if together else len(arms))):
        mark_levels(panel, levels(emm) if together else [arm_level(arms[position])])
        for index, (arm, rows) in enumerate(zip(arms, counted, strict=True)):
            if together:
                _draw_arm(panel, arm, rows, colour(index), 0.015 * index)
            elif index == position:
                _draw_arm(panel, arm, rows, COLOURS[0], 0.0)
                text = "?" if arm["status"] == "undetermined" else answer(arm)[0]
                panel.set_title(wrapped(f"{arm['arm']}: {text}", NAME), fontsize=8)
            else:
                _draw_line(panel, arm, rows, "#ccc", order=1)
    size_axis(panels[0, 0], curves["n"].tolist() or [10, 100])
    panels[0, 0].set_ylim(-3, 103)
    title = wrapped(f"{study['title']}: where does memorization end?", TITLE)
    below = subtitle(emm)
    if together:
        axes = panels[0, 0]
        axes.set_ylabel("memorized images (%)")
        for level in levels(emm):
            text, coordinates = f"{100 * level:.3g} %", axes.get_yaxis_transform()
            axes.text(1.01, 100 * level, text, transform=coordinates, va="center", color="#444")
        entitle(axes, title, below)
        axes.legend(loc="lower left", title="filled: confirming runs, open: locating", alignment="left")
    else:
        panels[0, 0].set_xlabel("")
        unknown = "; ?: not determined" if "undetermined" in emm["status"].tolist() else ""
        figure.supxlabel(f"training images N (filled: confirming runs, open: locating{unknown})", fontsize=9)
        figure.supylabel("memorized images (%)", fontsize=9)
        heading = f"{title}\nEMM of each arm{f' ({below})' if below else ''}"
        figure.suptitle(heading, fontsize=10, fontweight="bold", ha="left", x=0.01)
    return figure


def _draw_arm(axes: Axes, arm: Row, rows: "DataFrame", tint: str, shift: float) -> None:
    """Draw the runs of one arm with their counting intervals, and its fitted line; `shift` is in octaves."""
    # Points at one size would hide each other: replicates and arms are shifted apart.
    n = rows["n"].to_numpy() * 2 ** (0.03 * (rows["replicate"].to_numpy() - 2) / 2 + shift)
    ratio = 100 * rows["ratio"].to_numpy()
    errors = np.abs(100 * rows[["ratio_low", "ratio_high"]].to_numpy().T - ratio)
    confirm = (rows["role"] == "confirm").to_numpy()
    axes.errorbar(n, ratio, errors, fmt="none", ecolor=tint, elinewidth=0.8, alpha=0.5)
    label = wrapped(f"{arm['arm']}: EMM {answer(arm)[0]}", 2 * NAME)
    axes.scatter(n[confirm], ratio[confirm], s=26, color=tint, zorder=3, label=label if confirm.any() else None)
    axes.scatter(
        n[~confirm], ratio[~confirm], s=26, facecolor="white", edgecolor=tint, zorder=3,
        label=None if confirm.any() else label,
    )  # fmt: skip
    _draw_line(axes, arm, rows, tint)


def _draw_line(axes: Axes, arm: Row, rows: "DataFrame", tint: str, order: float = 2) -> None:
    """Draw the fitted line of an arm that has one, straight in logits, over the sizes of its runs."""
    if math.isnan(arm["emm"]) or math.isnan(arm["slope"]):
        return
    x = np.log2(rows["n"].to_numpy())
    x = np.linspace(x.min() - 0.3, x.max() + 0.3, 200)
    logits = logit(arm_level(arm)) + arm["slope"] * (x - math.log2(arm["emm"]))
    axes.plot(2**x, 100 / (1 + np.exp(-logits)), color=tint, lw=1.2, alpha=0.8, zorder=order)


def draw_emm(study: Row, emm: "DataFrame", curves: "DataFrame", style: Figures) -> Figure:
    """EMM of each arm with its 95 % interval; an arrow marks an arm of which only a limit is known."""
    figure, axes = subplots(figsize=(style.width, 0.9 + 0.42 * len(emm)), layout="constrained")
    positions = list(range(len(emm)))[::-1]
    sizes = emm[["emm", "emm_low", "emm_high"]].stack().dropna().tolist() or [10.0, 100.0]
    for index, (arm, y) in enumerate(zip(emm.to_dict("records"), positions, strict=True)):
        text, interval = answer(arm)
        low, high, middle = arm["emm_low"], arm["emm_high"], arm["emm"]
        end = low
        if arm["status"] == "estimated":
            end = middle if math.isnan(high) else high
            axes.plot([low, high], [y, y], color=colour(index), lw=3, solid_capstyle="butt", alpha=0.45)
            axes.plot(middle, y, "o", color=colour(index), ms=7)
        elif arm["status"] in ("at_least", "below"):
            end = low if arm["status"] == "at_least" else high
            axes.plot(end, y, marker=(3, 0, -90 if arm["status"] == "at_least" else 90), color=colour(index), ms=10)
        label = f"{text}  ({interval})" if interval not in ("", "none") else text
        anchor = (float(np.median(sizes)) if math.isnan(end) else end, y)
        axes.annotate(label, anchor, xytext=(9, 0), textcoords="offset points", va="center")
    axes.set_yticks(positions, [wrapped(arm, NAME) for arm in emm["arm"]])
    axes.set_ylim(-0.6, len(emm) - 0.4)
    size_axis(axes, sizes)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 1.6)  # room for the last label
    shares = [f"{100 * level:.3g} %" for level in levels(emm)]
    share = " or ".join(shares) if len(shares) < 3 else f"{shares[-1]} to {shares[0]}"
    axes.set_xlabel(f"EMM: training images at which {share} are memorized")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eee")
    axes.set_axisbelow(True)
    entitle(axes, wrapped(f"{study['title']}: effective model memorization", TITLE), subtitle(emm))
    return figure


def draw_progress(study: Row, emm: "DataFrame", curves: "DataFrame", style: Figures) -> Figure:
    """Memorization ratio against training progress: one panel per arm, one line per run, dark for small N."""
    columns = min(len(emm), 4)
    count = math.ceil(len(emm) / columns)
    size = (style.width, 0.5 + 0.33 * style.width * count)
    figure, panels = subplots(
        count, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    smallest, largest = min(curves["n"].tolist()), max(curves["n"].tolist())
    scale = LogNorm(smallest, largest * 1.3)
    map_ = matplotlib.colormaps["viridis"]
    for panel, arm in zip(panels.flat, emm.to_dict("records"), strict=False):
        mark_levels(panel, [arm_level(arm)])
        for _, run in curves[curves["arm"] == arm["arm"]].groupby(["n", "replicate"]):
            tint = map_(scale(max(run["n"])))
            panel.plot(100 * run["progress"], 100 * run["ratio"], "o-", ms=3, lw=1.1, color=tint)
        panel.set_title(wrapped(arm["arm"], NAME), fontsize=9)
        panel.set_ylim(-3, 103)
    used(panels, len(emm))
    panels[0, 0].set_ylabel("memorized images (%)")
    figure.supxlabel("share of the training budget (%)", fontsize=9)
    bar = figure.colorbar(ScalarMappable(scale, map_), ax=panels, label="training images N", aspect=25)
    ticks = sorted({smallest, *np.geomspace(smallest, largest, 4).round(-1), largest} - {0})
    bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    title = wrapped(f"{study['title']}: when memorization sets in", TITLE)
    figure.suptitle(title, fontsize=10, fontweight="bold", ha="left", x=0.01)
    return figure


def draw_onset(study: Row, onsets: "DataFrame", style: Figures) -> Figure:
    """Training images seen when memorization sets in, against N: one point per run, and lines of growth like N."""
    figure, axes = subplots(figsize=(style.width, style.width * 0.58), layout="constrained")
    level = 100 * (onsets["level"].iloc[0] if len(onsets) else 0.5)
    runs = onsets.dropna(subset="onset_images")
    size_axis(axes, runs["n"].tolist() or [10, 100])
    arms = onsets["arm"].unique()
    for index, arm in enumerate(arms):
        n, seen = (runs.loc[runs["arm"] == arm, column].to_numpy() for column in ("n", "onset_images"))
        axes.scatter(n, seen, s=26, color=colour(index), label=wrapped(arm, NAME), zorder=3)
        if len(n):
            x = np.geomspace(n.min(), n.max(), 2)
            middle = np.exp(np.log(seen / n).mean())
            label = "in proportion to N" if arm == runs["arm"].iloc[0] else None  # once in the legend
            axes.plot(x, middle * x, color=colour(index), lw=1, ls=(0, (4, 3)), label=label)
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    axes.set_ylabel(f"training images seen when {level:g} % are memorized")
    axes.set_title(wrapped(study["title"], TITLE))
    missing = len(onsets) - len(runs)
    parent, position = (axes, "upper left") if len(arms) <= TOGETHER else (figure, "outside right center")
    parent.legend(loc=position, title=f"runs without an onset: {missing}" if missing else None, alignment="left")
    return figure


def draw_budget(study: Row, rows: "DataFrame", style: Figures) -> Figure:
    """EMM against images seen in training, with the law through all arms but the last and what it forecasts for that.

    Local exponents stand between neighbouring arms.  Each claim about a forecast has its own colour.
    """
    figure, axes = subplots(figsize=(style.width, style.width * 0.58), layout="constrained")
    axes.set_xscale("log")
    axes.set_yscale("log")
    known = rows.dropna(subset=["images", "emm"])
    for index, (_, claim) in enumerate(known.groupby("finding", sort=False)):
        tint = colour(index)
        seen, emm = claim["images"].to_numpy(), claim["emm"].to_numpy()
        ends = np.nan_to_num(np.abs(claim[["emm_low", "emm_high"]].to_numpy().T - emm), nan=0.0)
        axes.errorbar(seen, emm, ends, fmt="o", color=tint, ms=6, lw=2, zorder=3, label="measured, 95 % interval")
        for before, arm in itertools.pairwise(claim.to_dict("records")):
            if not math.isnan(arm["exponent"]):
                middle = math.sqrt(before["images"] * arm["images"]), math.sqrt(before["emm"] * arm["emm"])
                axes.annotate(f"{arm['exponent']:.2f}", middle, xytext=(8, -12), textcoords="offset points", color=tint)
        first = claim.iloc[0]
        if not math.isnan(first["law_linear"]):
            law = Law(first["law_fixed"], first["law_linear"], first["law_quadratic"])
            x = np.geomspace(seen.min(), seen.max(), 100)
            axes.plot(
                x, [law.emm(images) for images in x], color=tint, lw=1, ls=(0, (4, 3)), label="law without the last"
            )
            last = claim.iloc[-1]
            ends = [[last["law"] - last["law_low"]], [last["law_high"] - last["law"]]]
            label = f"forecast {last['law']:.0f} ({last['law_low']:.0f} to {last['law_high']:.0f})"
            beside = last["images"] * 1.08
            axes.errorbar(beside, last["law"], ends, fmt="D", mfc="white", color=tint, ms=6, lw=1, label=label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("images seen in training (numbers: local exponents)")
    axes.set_ylabel("EMM, training images")
    axes.legend(loc="upper left")
    axes.set_title(wrapped(study["title"], TITLE))
    return figure


def draw_gallery(study: Row, emm: "DataFrame", galleries: Sequence[Mapping[str, np.ndarray]], style: Figures) -> Figure:
    """Generated images above their nearest training images: one row per arm, best matches left, worst right.

    Args:
        galleries: the arrays of each arm's gallery.npz, in the order of `emm`.
    """
    columns = style.gallery
    figure, panels = subplots(
        len(emm), 2, figsize=(style.width, 0.7 + style.width / (2 * columns) * 2.2 * len(emm)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, (arm, gallery) in enumerate(zip(emm["arm"], galleries, strict=True)):
        for column, kind in enumerate(("best", "worst")):
            axes = panels[row, column]
            generated, nearest = (gallery[f"{kind}_{side}"][:columns] for side in ("generated", "train"))
            axes.imshow(mosaic(generated, nearest), vmin=0, vmax=255, cmap="gray", interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(f"{kind} matches", fontsize=9)
        height = panels[row, 0].get_ylim()[0]
        panels[row, 0].set_yticks([0.25 * height, 0.75 * height], ["generated", "nearest in\ntraining set"])
        panels[row, 0].tick_params(axis="y", length=0, labelsize=7)
        panels[row, 0].set_ylabel(wrapped(arm, 16), fontweight="bold", fontsize=8)
    title = wrapped(f"{study['title']}: copies and non-copies near EMM", TITLE)
    figure.suptitle(title, fontsize=10, fontweight="bold", ha="left", x=0.01)
    return figure


def mosaic(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Two rows of images as one picture, with white lines between images.

    Args:
        top, bottom: (m, C, H, W) uint8.
    Returns:
        (2H + 1, m(W + 1) - 1) uint8, with a last axis of C channels unless C is 1.
    """
    count, channels, height, width = top.shape
    picture = np.full((2 * height + 1, count * (width + 1) - 1, channels), 255, np.uint8)
    for row, images in enumerate((top, bottom)):
        for column, image in enumerate(images):
            y, x = row * (height + 1), column * (width + 1)
            picture[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    return picture[..., 0] if channels == 1 else picture


def save(figure: Figure, stem: Path, dpi: int) -> None:
    """Write STEM.svg and STEM.png; the same figure gives the same bytes.

    Args:
        stem: path of which the suffix is replaced.
        dpi: resolution of the PNG.
    Raises:
        OSError: a file cannot be written.
    """
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        with replacing(stem.with_suffix(f".{kind}")) as temporary:
            figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata)
