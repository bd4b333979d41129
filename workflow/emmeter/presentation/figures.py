"""Further figures of a study, drawn from its tables: EMM of each arm, progress, onset and budget."""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emmeter.files.writing import replacing
from emmeter.measure.budget import Law
from emmeter.presentation.curves_figure import BOTTOM, LEFT, RIGHT, draw_interval, label, levels
from emmeter.presentation.style import (
    INK,
    MUTED,
    NAME,
    NARROW,
    PAPER,
    RULE,
    TOGETHER,
    Figure,
    Heading,
    LogNorm,
    ScalarMappable,
    log_axis,
    marker,
    matplotlib,
    placed,
    share_axis,
    size_axis,
    tint,
    titled,
    wrapped,
)
from emmeter.settings.sections import Figures

if TYPE_CHECKING:
    from pandas import DataFrame

Row = Mapping[str, Any]


def draw_emm(emm: "DataFrame", style: Figures, heading: Heading | None = None) -> Figure:
    """EMM of each arm with its 95 % interval; an arrow marks an arm of which only a limit is known.

    Args:
        emm: emm.csv of the study.
    """
    arms, width = emm.to_dict("records"), style.width
    names = [wrapped(arm["arm"], NAME) for arm in arms]
    left = 0.25 + 0.075 * max(len(line) for name in names for line in name.split("\n"))
    labels = [label(arm) for arm in arms]
    right = 0.2 + 0.08 * max(map(len, labels))
    row = 0.27 + 0.13 * max(name.count("\n") for name in names)
    wide = width >= NARROW
    bottom = BOTTOM if wide else BOTTOM + 0.18  # the label below has two lines
    figure, _ = titled(width, bottom + row * len(arms) + 0.1, heading)
    axes = placed(figure, left, bottom, max(width - left - right, 0.8), row * len(arms))
    sizes = emm[["emm", "emm_low", "emm_high"]].stack().dropna().tolist() or [10.0, 100.0]
    size_axis(axes, min(sizes) / 1.2, max(sizes) * 1.2, most=7 if wide else 3)
    for index, (arm, text) in enumerate(zip(arms, labels, strict=True)):
        colour = tint(index, len(arms)) if len(arms) <= TOGETHER else INK
        draw_interval(axes, arm, index, colour, marker(index, len(arms)))
        axes.text(1.02, index, text, transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(arms)), names, color=INK)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines.left.set_visible(False)
    axes.grid(axis="x", color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    shares = [f"{100 * level:.3g} %" for level in levels(emm)]
    share = " or ".join(shares) if len(shares) < 3 else f"{shares[-1]} to {shares[0]}"
    start = f"EMM: training images at which {share}"
    axes.set_xlabel(f"{start}{' ' if wide else chr(10)}are copies (log scale)", x=0.5 if wide else 0.3)
    return figure


def draw_progress(
    curves: "DataFrame", level_of: Mapping[str, float], style: Figures, heading: Heading | None = None
) -> Figure:
    """Share of copies against training progress: one panel per arm, one line per run, dark for small N.

    Args:
        curves: curves.csv of the study.
        level_of: share of copies that defines EMM, 0 to 1, by the name of the arm, in the order of the panels.
    """
    arms, width = list(level_of), style.width
    columns = min(len(arms), 4 if width >= NARROW else 2)
    rows, inner, cell = math.ceil(len(arms) / columns), (width - LEFT - RIGHT) / columns, 1.6
    figure, _ = titled(width, 1.06 + cell * rows, heading)
    smallest, largest = min(curves["n"].tolist()), max(curves["n"].tolist())
    scale = LogNorm(smallest, largest * 1.3)
    colours = matplotlib.colormaps["viridis"]
    for index, arm in enumerate(arms):
        row, column = divmod(index, columns)
        bottom = 1.06 + cell * (rows - 1 - row)
        panel = placed(figure, LEFT + inner * column, bottom, inner - 0.14, cell - 0.36)
        share_axis(panel, [level_of[arm]], (0, 50))
        for _, run in curves[curves["arm"] == arm].groupby(["n", "replicate"]):
            colour = colours(scale(max(run["n"])))
            panel.plot(100 * run["progress"], 100 * run["ratio"], "o-", ms=3, lw=1.1, color=colour)
        panel.set(xlim=(0, 103), xticks=(25, 50, 75, 100), xticklabels=("", "50", "", "100\u00a0%"))
        panel.set_title(wrapped(arm, NAME), fontsize=8, loc="left", pad=3)
        panel.tick_params(labelsize=8, labelleft=column == 0, labelbottom=index + columns >= len(arms))
    total = figure.get_figheight()
    figure.text(0.5, 0.68 / total, "share of the training budget", ha="center", color=MUTED)
    bar_axes = placed(figure, LEFT, 0.46, width - LEFT - RIGHT - 0.1, 0.1)
    bar = figure.colorbar(ScalarMappable(scale, colours), cax=bar_axes, orientation="horizontal")
    log_axis(bar.ax.xaxis, smallest, largest, most=8 if width >= NARROW else 5)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label("N, training images", labelpad=1)
    return figure


def draw_onset(onsets: "DataFrame", style: Figures, heading: Heading | None = None) -> Figure:
    """Training images seen when memorization sets in, against N: one point per run, and lines of growth like N.

    Args:
        onsets: onset.csv of the study.
    """
    width = style.width
    runs = onsets.dropna(subset="onset_images")
    arms = [str(arm) for arm in onsets["arm"].unique()]
    level = 100 * (onsets["level"].iloc[0] if len(onsets) else 0.5)
    missing = len(onsets) - len(runs)
    key = 0.2 * (len(arms) if len(arms) > 1 else 0)
    figure, _ = titled(width, BOTTOM + 0.52 * width + key + 0.4, heading)
    axes = placed(figure, 0.75, BOTTOM + key, width - 0.75 - RIGHT, 0.52 * width)
    sizes, seen = (runs[column].tolist() or [10, 100] for column in ("n", "onset_images"))
    size_axis(axes, min(sizes) / 1.2, max(sizes) * 1.2)
    axes.set_yscale("log")
    axes.set_ylim(min(seen) / 1.6, max(seen) * 1.6)
    log_axis(axes.yaxis, *axes.get_ylim(), most=6)
    axes.grid(axis="y", color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    for index, arm in enumerate(arms):
        n, images = (runs.loc[runs["arm"] == arm, column].to_numpy() for column in ("n", "onset_images"))
        colour = tint(index, len(arms))
        axes.scatter(n, images, s=30, marker=marker(index, len(arms)), color=colour, lw=0, label=arm, zorder=3)
        if len(n):
            x = np.array(axes.get_xlim())
            line = "in proportion to N" if arm == runs["arm"].iloc[0] else None  # once in the legend
            middle = np.exp(np.log(images / n).mean())
            axes.plot(x, middle * x, color=colour, lw=1, ls=(0, (4, 3)), label=line)
    text = f"training images seen when {level:g} % are copies" + (f"; runs without: {missing}" if missing else "")
    axes.set_title(wrapped(text, round(11 * width)), fontweight="normal", color=MUTED, pad=6)
    axes.legend(loc="upper left") if len(arms) <= TOGETHER else figure.legend(loc="lower right", ncols=2, fontsize=7)
    return figure


def draw_budget(rows: "DataFrame", style: Figures, heading: Heading | None = None) -> Figure:
    """EMM against images seen in training, with the law through all arms but the last and what it forecasts for that.

    Local exponents stand between neighbouring arms.  Each claim about a forecast has its own colour.

    Args:
        rows: budget.csv of the study.
    """
    width = style.width
    bottom = BOTTOM if width >= NARROW else BOTTOM + 0.18  # the label below has two lines
    figure, _ = titled(width, bottom + 0.6 * width + 0.4, heading)
    axes = placed(figure, 0.6, bottom, width - 0.6 - RIGHT - 0.1, 0.6 * width)
    axes.set_xscale("log")
    axes.set_yscale("log")
    known = rows.dropna(subset=["images", "emm"])
    claims = list(known.groupby("finding", sort=False))
    for index, (_, claim) in enumerate(claims):
        colour, shape = tint(index, len(claims)), marker(index, len(claims))
        seen, emm = claim["images"].to_numpy(), claim["emm"].to_numpy()
        ends = np.nan_to_num(np.abs(claim[["emm_low", "emm_high"]].to_numpy().T - emm), nan=0.0)
        axes.errorbar(seen, emm, ends, fmt=shape, color=colour, ms=6, lw=2, zorder=3, label="measured, 95 % interval")
        for before, arm in itertools.pairwise(claim.to_dict("records")):
            if not math.isnan(arm["exponent"]):
                middle = math.sqrt(before["images"] * arm["images"]), math.sqrt(before["emm"] * arm["emm"])
                axes.annotate(
                    f"{arm['exponent']:.2f}", middle, xytext=(8, -12), textcoords="offset points", color=colour
                )
        first, last = claim.iloc[0], claim.iloc[-1]
        if not math.isnan(first["law_linear"]):
            law = Law(first["law_fixed"], first["law_linear"], first["law_quadratic"])
            x = np.geomspace(seen.min(), seen.max(), 100)
            y = [law.emm(images) for images in x]
            axes.plot(x, y, color=colour, lw=1, ls=(0, (4, 3)), label="law without the last")
            ends = [[last["law"] - last["law_low"]], [last["law_high"] - last["law"]]]
            text = f"forecast {last['law']:.0f} ({last['law_low']:.0f} to {last['law_high']:.0f})"
            beside = last["images"] * 1.08
            axes.errorbar(beside, last["law"], ends, fmt="D", mfc=PAPER, color=colour, ms=6, lw=1, label=text)
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        log_axis(axis, *limits, most=7 if width >= NARROW else 4)
    axes.grid(axis="y", color=RULE, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(wrapped("images seen in training (log scale; numbers: local exponents)", round(14 * width)))
    axes.set_title("EMM, training images", fontweight="normal", color=MUTED, pad=6)
    if width >= NARROW:
        axes.legend(loc="lower right")
    else:
        axes.set_ylim(top=axes.get_ylim()[1] * 4)  # room for the legend
        log_axis(axes.yaxis, *axes.get_ylim(), most=4)
        axes.legend(loc="upper left", fontsize=8)
    return figure


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
