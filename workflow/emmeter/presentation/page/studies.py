"""The part of the page about one study: its figures, the table of its arms, its gallery and its cost."""

import base64
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from PIL import Image

from emmeter.presentation.curves_figure import counted_rows, draw_curves, has_line
from emmeter.presentation.figures import draw_budget, draw_onset
from emmeter.presentation.gallery_figure import Gallery, caption, chosen, ratio
from emmeter.presentation.inline import inline
from emmeter.presentation.page.claims import Claim, claims
from emmeter.presentation.page.intervals import Axis, axis
from emmeter.presentation.page.material import File, StudyMaterial
from emmeter.presentation.page.words import NBSP, span
from emmeter.presentation.sentences import finding
from emmeter.presentation.style import TOGETHER, Figure, styled
from emmeter.presentation.tables import answer, images_and_budget
from emmeter.settings.sections import Figures

if TYPE_CHECKING:
    from pandas import DataFrame

Row = Mapping[str, Any]
WIDE, NARROW = 6.6, 3.4  # inches of the two drawings of a figure; phones show the narrow one
COLUMNS = 8  # generated images per arm
GROUPS = {  # headings of studies, by the beginning of their factor; the longest counts
    "data.labels": "Labels",
    "data": "Training data",
    "network": "Network",
    "training": "Training",
    "sampling": "Averaging, noise and sampling",
    "diffusion": "Averaging, noise and sampling",
    "scoring": "Criterion",
    "": "Other studies",
}
TABLES = {
    "emm": "one row per arm: EMM, interval, status, cost",
    "findings": "one row per claim: verdict, ratio of EMMs, interval",
    "curves": "every snapshot of every run",
    "contrasts": "ratio of the EMM of each arm to that of the first",
    "onset": "when memorization sets in, for every run",
    "budget": "the law of the training budget",
    "published": "our shares of copies beside the published ones",
    "shape": "our results beside the published ones, by shape",
    "configuration": "all settings in force; snakemake --configfile takes this file",
}


@dataclass(frozen=True)
class Download:
    """A file inside the page, which a click saves."""

    path: str
    name: str
    """Suggested name of the saved file."""
    content: str
    """What is in it, in words."""
    rows: int
    href: str


@dataclass(frozen=True)
class Drawing:
    """A figure in a wide and a narrow form, with its text."""

    title: str
    subtitle: str
    wide: Markup
    narrow: Markup
    caption: Sequence[str]


@dataclass(frozen=True)
class ArmRow:
    """An arm in the table of a study.

    Attributes:
        value: of the factor, where the name does not tell it.
        shape, tint: numbers of its marker and its colour.
        emm, interval, plot: EMM in words, its interval, both drawn.
        ratio, ratio_interval, ratio_plot: the same for the ratio to the first arm.
        runs, confirming: numbers of its runs.
        note: letter of its note below the table, or nothing.
    """

    name: str
    value: str
    shape: int
    tint: int
    emm: str
    interval: str
    plot: Markup
    ratio: str
    ratio_interval: str
    ratio_plot: Markup
    runs: int
    confirming: int
    note: str


@dataclass(frozen=True)
class Tile:
    """A generated image above its two nearest training images, as one picture."""

    source: str
    alt: str
    ratio: str
    copy: bool


@dataclass(frozen=True)
class Example:
    """Generated images of one arm."""

    arm: str
    shape: int
    tint: int
    caption: str
    tiles: Sequence[Tile]
    side: int
    """Pixels of an image."""
    shown: str
    """Width and height of a tile's picture, as CSS writes a ratio."""


@dataclass(frozen=True)
class Measured:
    """What a later stage has measured of a study, as a table of text."""

    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Cost:
    """Cost of the runs of all arms of a study; runs that arms share count in each."""

    arms: int
    runs: int
    images: float
    flops: float
    minutes: float


@dataclass(frozen=True)
class StudyPart:
    """Everything that the page shows of a study."""

    name: str
    anchor: str
    group: str
    title: str
    source: str
    factor: str
    headline: str
    setting: str
    claims: Sequence[Claim]
    drawings: Sequence[Drawing]
    arms: Sequence[ArmRow]
    baseline: str
    brackets: bool
    """Whether the limits of EMMs are neighbouring sizes instead of intervals."""
    paired: bool
    axis: Axis
    ratios: Axis
    notes: Sequence[tuple[str, str]]
    """Letters and texts."""
    examples: Sequence[Example]
    measured: Sequence[Measured]
    tables: Sequence[Download]
    cost: Cost
    runs: int
    sizes: tuple[int, int]


def study_part(study: StudyMaterial, effects: Axis) -> StudyPart:
    """Make the part of a study.

    Args:
        effects: the axis of the effects of all claims of the page.
    """
    emm, contrasts = study.emm, study.contrasts
    arms = emm.to_dict("records")
    counted = {arm["arm"]: counted_rows(arm, study.curves) for arm in arms}
    runs = sum(map(len, counted.values()))
    sizes = axis(number for arm in arms for number in _known(arm, "emm", "emm_low", "emm_high"))
    ratios = axis(
        (n for row in contrasts.to_dict("records") for n in _known(row, "emm_ratio", "ratio_low", "ratio_high")),
        ratios=True,
    )
    notes = list(dict.fromkeys(arm["note"] for arm in arms if arm["note"]))
    judged = claims(study.findings, emm, effects)
    n = study.curves["n"].tolist()
    columns = ("runs", "images_trained", "flops", "seconds")
    total = {name: sum(arm[name] for arm in arms) for name in columns}
    return StudyPart(
        name=study.name,
        anchor=f"study-{study.name}",
        group=GROUPS[max((start for start in GROUPS if study.factor.startswith(start)), key=len)],
        title=study.title,
        source=study.source,
        factor=study.factor,
        headline=finding(emm, contrasts, study.curves),
        setting=setting(emm),
        claims=judged,
        drawings=drawings(study),
        arms=[_arm_row(arm, index, len(arms), contrasts, sizes, ratios, notes) for index, arm in enumerate(arms)],
        baseline=arms[0]["arm"] if len(contrasts) else "",
        brackets=set(emm["rule"]) == {"grid"},
        paired=set(contrasts.loc[contrasts["emm_ratio"].notna(), "paired"]) == {"True"},
        axis=sizes,
        ratios=ratios,
        notes=[(letter(index), note) for index, note in enumerate(notes)],
        examples=[
            example(arm["arm"], index, len(arms), search.gallery)
            for index, arm in enumerate(arms)
            if (search := study.searches.get(arm["arm"])) is not None and search.gallery is not None
        ],
        measured=(),
        tables=[download(file) for file in study.files],
        cost=Cost(len(arms), round(total["runs"]), total["images_trained"], total["flops"], total["seconds"] / 60),
        runs=runs,
        sizes=(int(min(n)), int(max(n))),
    )


def setting(emm: "DataFrame") -> str:
    """The images and the budgets of the arms of a study; empty if there are more than two kinds."""
    kinds = list(dict.fromkeys(map(images_and_budget, emm.to_dict("records"))))
    return "; ".join(kinds) if len(kinds) <= 2 else ""


def _known(row: Row, *names: str) -> list[float]:
    return [row[name] for name in names if not math.isnan(row[name])]


def _none(number: float) -> float | None:
    return None if math.isnan(number) else number


def look(index: int, count: int) -> int:
    """The number of an arm's colour and marker, as `style.tint` and `style.marker` choose them."""
    return index if count <= TOGETHER else 0


def _arm_row(
    arm: Row, index: int, count: int, contrasts: "DataFrame", sizes: Axis, ratios: Axis, notes: Sequence[str]
) -> ArmRow:
    text, interval = answer(arm)
    against = next((row for row in contrasts.to_dict("records") if row["arm"] == arm["arm"]), None)
    ends = [None, None, None]
    if against is not None:
        ends = [_none(against[name]) for name in ("emm_ratio", "ratio_low", "ratio_high")]
    ratio_text, ratio_interval = ratio_words(*ends) if against is not None else ("1", "")
    shape = look(index, count)
    return ArmRow(
        name=arm["arm"],
        value=value(arm),
        shape=shape,
        tint=shape,
        emm=text.replace(" ", NBSP),
        interval="" if interval == "none" else interval,
        plot=sizes.draw(_none(arm["emm"]), _none(arm["emm_low"]), _none(arm["emm_high"]), shape=shape),
        ratio=ratio_text,
        ratio_interval=ratio_interval,
        ratio_plot=ratios.draw(*ends, shape=shape),
        runs=round(arm["runs"]),
        confirming=round(arm["confirm_runs"]),
        note=letter(notes.index(arm["note"])) if arm["note"] else "",
    )


def ratio_words(middle: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    """A ratio and its interval in words: ("1.34", "1.08 to 1.66"), ("≥ 2.1", ""), ("0.5 to 3.0", ""), ("–", "")."""

    def number(ratio: float) -> str:
        return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"

    if low is not None and high is not None:
        both = f"{number(low)} to {number(high)}"
        return (number(middle), both) if middle is not None else (both, "")
    if low is not None:
        return f"≥{NBSP}{number(low)}", ""
    return (f"≤{NBSP}{number(high)}", "") if high is not None else ("–", "")


def value(arm: Row) -> str:
    """The arm's value of the factor, unless its name tells it; flags of skip connections as dots."""
    text = arm["value"]
    if re.fullmatch(r"\[[01](, [01])*\]", text):
        return re.sub("[^01]", "", text).translate({ord("1"): "●", ord("0"): "○"})
    return "" if text in (arm["arm"], "None") else text


def letter(index: int) -> str:
    """The mark of a note: a, b, ..., z, aa, ab, ..."""
    first, last = divmod(index, 26)
    return (letter(first - 1) if first else "") + chr(ord("a") + last)


def drawings(study: StudyMaterial) -> list[Drawing]:
    """The figures of a study, each in both forms."""
    emm, curves, text = study.emm, study.curves, finding(study.emm, study.contrasts, study.curves)
    arms = emm.to_dict("records")
    described = "; ".join(f"{arm['arm']}: {' '.join(filter(None, answer(arm)))}" for arm in arms)
    alt = f"{text}. Share of near copies against the number of training images N. EMM per arm: {described}."
    drawn = [
        Drawing(
            title=text,
            subtitle="Share of generated images that are near copies, by number of training images N.",
            caption=curve_caption(study),
            **both(lambda style: draw_curves(emm, curves, style), f"{study.name}-curves", text, alt),
        )
    ]
    described = {"title": study.title}
    if study.onset is not None and len(study.onset["onset_images"].dropna()) > 1:
        onset, title = study.onset, "Memorization sets in later for larger training sets"
        drawn.append(
            Drawing(
                title="When memorization sets in",
                subtitle="Training images seen when half of the generated images are near copies, by N.",
                caption=["A point is one run. The dashed line is growth in proportion to N."],
                **both(lambda style: draw_onset(described, onset, style), f"{study.name}-onset", title, title),
            )
        )
    if study.budget is not None and len(study.budget):
        budget, title = study.budget, "EMM against the training budget"
        drawn.append(
            Drawing(
                title=title,
                subtitle="EMM by the number of images that a run sees in training.",
                caption=["The curve is the law through all arms but the last; the last arm tests its forecast."],
                **both(lambda style: draw_budget(described, budget, style), f"{study.name}-budget", title, title),
            )
        )
    return drawn


def both(draw: Callable[[Figures], Figure], prefix: str, title: str, alt: str) -> dict[str, Markup]:
    """Both forms of a figure, as fields of a `Drawing`."""
    forms = {}
    with styled():
        for form, width in (("wide", WIDE), ("narrow", NARROW)):
            figure = draw(Figures(width=width))
            forms[form] = Markup(inline(figure, f"{prefix}-{form}", title, alt))
    return forms


def curve_caption(study: StudyMaterial) -> list[str]:
    """How to read the main figure of a study, in short paragraphs."""
    arms = study.emm.to_dict("records")
    images = span(study.curves["images"].tolist())
    level = 100 * (1 - arms[0]["epsilon"])
    texts = [
        f"A point is one run: a model trained on N images of its own draw, with its own seed. Its height is the share "
        f"of near copies among its {images} generated images. The thin bar is the 95{NBSP}% interval for counting them."
    ]
    roles = set(study.curves["role"])
    if {"locate", "confirm"} <= roles:
        texts.append("Filled: confirming runs, which alone enter the estimate. Open: locating runs.")
    if any(map(has_line, arms)):
        texts.append(f"The curve is a logistic fit. EMM is where it crosses the dashed line at {level:g}{NBSP}%.")
    if "grid" in roles:
        texts.append(
            f"The sizes of this study are given. EMM is the largest that reaches {level:g}{NBSP}%, and its limits are "
            "neighbouring sizes, not a confidence interval."
        )
    scatter = [arm["run_sd"] for arm in arms if not math.isnan(arm["run_sd"])]
    if scatter:
        points = level * (100 - level) / 100 * float(np.median(scatter))
        texts.append(f"Near {level:g}{NBSP}%, runs of one arm scatter by about {points:.0f} percentage points.")
    if len(arms) > TOGETHER:
        texts.append("Each panel shows one arm, with its EMM at the top right. Grey curves are the other arms.")
    return texts


def example(arm: str, index: int, count: int, gallery: Gallery) -> Example:
    """Generated images of an arm, at even ranks of d1/d2."""
    tiles = []
    for position in chosen(gallery, COLUMNS):
        copy, quotient = bool(gallery["copy"][position]), ratio(gallery, position)
        images = [gallery[name][position] for name in ("generated", "nearest", "second")]
        alt = f"Generated image, its nearest and its second nearest training image; d1/d2 {quotient:.2f}, "
        tiles.append(Tile(column(images), alt + ("a near copy" if copy else "no copy"), f"{quotient:.2f}", copy))
    shape = look(index, count)
    side = gallery["generated"].shape[-1]
    return Example(arm, shape, shape, caption(gallery), tiles, side, f"{side} / {3 * side + 2 * gap(side)}")


def column(images: Sequence[np.ndarray]) -> str:
    """Images (C, H, W) below one another, with transparent gaps between them: a PNG as the address of an image."""
    channels, height, width = images[0].shape
    step = height + gap(height)
    picture = np.zeros((len(images) * step - gap(height), width, channels + 1), np.uint8)
    for number, image in enumerate(images):
        top = number * step
        picture[top : top + height, :, :channels] = image.transpose(1, 2, 0)
        picture[top : top + height, :, channels] = 255
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def gap(side: int) -> int:
    """Pixels between two images of a column."""
    return max(1, side // 8)


def download(file: File) -> Download:
    """A file as a link that holds its content: the page travels alone."""
    stem, _, kind = file.path.rpartition("/")[2].rpartition(".")
    mime = "text/csv" if kind == "csv" else "text/plain"
    href = f"data:{mime};charset=utf-8,{quote(file.content, safe=',;:/+()=_.-|@!*~')}"
    return Download(
        path=file.path,
        name=file.path.replace("/", "-"),
        content=TABLES[stem],
        rows=max(file.content.count(b"\n") - 1, 0),
        href=href,
    )
