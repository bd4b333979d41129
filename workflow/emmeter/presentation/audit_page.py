"""The page of an audit: `audit.html`, in the frame and style of the report."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from emmeter.data.audited import Audited
from emmeter.data.collection.gather import Collection
from emmeter.data.collection.store import Store
from emmeter.files.provenance import commit, versions
from emmeter.measure.audit import Answer, Criterion, Finding, Images
from emmeter.presentation.audit_tables import copied_groups, copies_per_image, exactly
from emmeter.presentation.audit_words import criterion_lines, interval, nearer_line, percent, rule, verdict
from emmeter.presentation.inline import inline
from emmeter.presentation.page.drawings import NARROW, WIDE
from emmeter.presentation.page.gallery import column
from emmeter.presentation.page.templates import render
from emmeter.presentation.style import INK, MUTED, SERIES, Figure, placed, styled

PAIRS, ORIGINALS = 24, 16  # most suspicious images, and most copied training images, that are shown
THUMBNAIL = 96  # pixels of the longer side of a picture
TONES: dict[Answer, str] = {"below": "ok", "above": "no", "undecided": "open"}
AXES = {
    "ratio": "d1/d2",
    "calibrated": "d1 over the mean distance around the match",
    "cosine": "cosine similarity of features",
}
POINTS = 400  # of a curve


@dataclass(frozen=True)
class Row:
    """A criterion in the table of the page."""

    name: str
    rule: str
    tone: str
    answer: str
    generated: str
    generated_span: str
    held_out: str
    excess: str
    copied: str


@dataclass(frozen=True)
class Drawing:
    """The distribution under one criterion, as figures for wide and for narrow screens."""

    title: str
    caption: str
    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class Tile:
    """Pictures below one another with a number and a text."""

    source: str
    alt: str
    number: str
    text: str
    name: str
    copy: bool


@dataclass(frozen=True)
class Page:
    """Everything that the template shows."""

    title: str
    tone: str
    verdict: str
    sentences: Sequence[tuple[str, str]]
    settings: Mapping[str, str]
    rows: Sequence[Row]
    held_out: bool
    drawings: Sequence[Drawing]
    pairs: Sequence[Tile]
    originals: Sequence[Tile]
    side: int
    redact: bool
    inputs: Sequence[Mapping[str, str]]
    versions: Sequence[str]
    commit: str | None
    command: str


def page(audited: Audited, redact: bool) -> str:
    """The page as HTML.

    Args:
        redact: whether names and pictures are left out.
    """
    return render("audit.html.j2", page=content(audited, redact))


def content(audited: Audited, redact: bool) -> Page:
    """Everything that the template shows."""
    result = audited.result
    with styled():
        drawings = [_drawing(finding) for finding in result.findings]
    return Page(
        title="Copies of training images among generated images",
        tone=TONES[result.answer],
        verdict=verdict(audited) + ".",
        sentences=_sentences(audited, redact),
        settings=_settings(audited),
        rows=[_row(finding, audited) for finding in result.findings],
        held_out=result.held_out is not None,
        drawings=drawings,
        pairs=[] if redact else _pairs(audited),
        originals=[] if redact else _originals(audited),
        side=max(audited.generated.store.shape[1:]),
        redact=redact,
        inputs=_inputs(audited, redact),
        versions=[f"{name} {number}" for name, number in versions().items()],
        commit=commit(),
        command=_command(audited, redact),
    )


def _sentences(audited: Audited, redact: bool) -> list[tuple[str, str]]:
    """What was found, each sentence with a tone."""
    result = audited.result
    spoken: list[tuple[str, str]] = []
    for finding in result.findings:
        spoken += [(TONES[finding.answer], f"{line}.") for line in criterion_lines(finding, audited, redact)[:1]]
        spoken += [("", f"{line}.") for line in criterion_lines(finding, audited, redact)[1:]]
    if result.equal:
        spoken.append(("no", f"{result.equal:,} generated images equal a training image in every pixel."))
    if result.leaked:
        spoken.append(("care", f"{result.leaked:,} held-out images equal a training image. The excess is too small."))
    if line := nearer_line(audited):
        spoken.append(("", f"{line}."))
    return spoken


def _settings(audited: Audited) -> dict[str, str]:
    result, options = audited.result, audited.options
    channels, height, width = audited.generated.store.shape
    train = f"{len(audited.train):,} images"
    if (distinct := len(result.training.distinct)) < len(audited.train):
        train += f", {distinct:,} distinct"
    if audited.groups is not None:
        train += f", {len(set(audited.groups) - {''}):,} groups"
    size = f"{width} × {height} pixels, {'colour' if channels == 3 else 'grey'}"
    if options.resize is not None:
        size += " (middle squares, resampled by Lanczos's filter)"
    return {
        "Generated": f"{len(audited.generated):,} images",
        "Training": train,
        "Held-out": "none" if audited.held_out is None else f"{len(audited.held_out):,} images",
        "Size": size,
        "Limit": f"{percent(result.limit)} copies" + (" beyond held-out" if result.held_out else ""),
        "Mirror images": "count" if options.mirrored else "do not count",
    }


def _row(finding: Finding, audited: Audited) -> Row:
    sides = finding.generated.copied(audited.result.training)
    rate, difference = finding.generated.rate, finding.excess
    held = "" if finding.held_out is None else percent(finding.held_out.rate.share)
    groups = copied_groups(finding, audited)
    copied = f"{sides.copied:,} of {sides.train:,}" + ("" if groups is None else f", in {groups:,} groups")
    points = ""
    if difference is not None:
        points = f"{100 * difference.value:.3g} ({100 * difference.low:.3g} to {100 * difference.high:.3g})"
    return Row(
        name=finding.criterion.name,
        rule=rule(finding.criterion),
        tone=TONES[finding.answer],
        answer=finding.answer,
        generated=f"{rate.count:,} ({percent(rate.share)})",
        generated_span=interval(rate),
        held_out=held,
        excess=points,
        copied=copied,
    )


def _drawing(finding: Finding) -> Drawing:
    name = finding.criterion.name
    title = f"Distribution of {AXES[name]}"
    side = "right" if name == "cosine" else "left"
    caption = (
        f"A curve rises by one image at its value. Copies are {side} of the dashed line, the threshold "
        f"{exactly(finding.criterion.threshold)}."
    )
    if finding.held_out is not None:
        caption += " Where generated images are as new as held-out ones, the two curves lie on each other."
    forms = {}
    for form, width in (("wide", WIDE), ("narrow", NARROW)):
        figure = draw_shares(finding.criterion, finding.generated, finding.held_out, width)
        forms[form] = Markup(inline(figure, f"{name}-{form}", title, caption))
    return Drawing(title, caption, **forms)


def draw_shares(criterion: Criterion, generated: Images, held_out: Images | None, width: float) -> Figure:
    """Draw the shares of images up to every value, of generated and of held-out images.

    Args:
        width: in inches.
    """
    key = 0.25  # inches for the legend, which lies above the curves, because these may be anywhere
    height = 0.48 * width + 0.4 + key
    figure = Figure(figsize=(width, height))
    axes = placed(figure, 0.55, 0.45, width - 0.7, height - 0.6 - key)
    sets: list[tuple[str, Images, str, Any]] = [("generated", generated, SERIES[1], "-")]
    if held_out is not None:
        sets.append(("held-out", held_out, SERIES[0], (0, (5, 2))))
    for label, images, colour, line in sets:
        values = np.sort(images.values)
        places = np.unique(np.linspace(0, len(values) - 1, min(POINTS, len(values))).round().astype(int))
        axes.step(
            values[places], 100 * (places + 1) / len(values), where="post", color=colour, ls=line, lw=1.6, label=label
        )
    threshold = float(criterion.threshold)
    axes.axvline(threshold, color=INK, lw=0.9, ls=(0, (2, 2)))
    axes.set_ylim(-3, 103)
    axes.set_xlabel(AXES[criterion.name])
    axes.set_ylabel("images up to this value, %")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(sets), borderaxespad=0.2, labelcolor=MUTED)
    return figure


def _suspicion(audited: Audited) -> np.ndarray:
    """(m,) positions of generated images, the most suspicious by the first criterion first; copies before others."""
    first = audited.result.findings[0]
    values = -first.generated.values if first.criterion.name == "cosine" else first.generated.values
    return np.lexsort((np.arange(len(values)), values, ~audited.result.copies))


def _pairs(audited: Audited) -> list[Tile]:
    """The most suspicious images above their nearest and second nearest training images, each match at most twice."""
    result, generated, train = audited.result, audited.generated, audited.train
    copies, tiles = result.copies, []
    shown: dict[int, int] = {}
    for position in _suspicion(audited).tolist():
        match = int(result.nearest.first[position])
        if shown.get(match, 0) >= 2:
            continue
        shown[match] = shown.get(match, 0) + 1
        ratio, copy = float(result.nearest.ratio[position]), bool(copies[position])
        pictures = [
            _picture(generated.store, position),
            _picture(train.store, match),
            _picture(train.store, int(result.nearest.second[position])),
        ]
        d1, d2 = np.sqrt(result.nearest.squared[position] / generated.store.pixels)
        alt = f"Generated image {generated.names[position]}, its nearest training image {train.names[match]}, and the "
        alt += f"second nearest, {train.names[int(result.nearest.second[position])]}"
        label = f"{generated.names[position]} / {train.names[match]}"
        tiles.append(Tile(column(pictures), alt, f"{ratio:.2f}", f"{d1:.3g} / {d2:.3g}", label, copy))
        if len(tiles) == PAIRS:
            break
    return tiles


def _originals(audited: Audited) -> list[Tile]:
    """The most copied training images above the generated image that is most like them."""
    counts = copies_per_image(audited)
    best: dict[int, int] = {}
    for finding in audited.result.findings:
        order = np.argsort(finding.generated.values, kind="stable")
        for position in (order[::-1] if finding.criterion.name == "cosine" else order).tolist():
            if finding.generated.flags[position]:
                best.setdefault(int(finding.generated.matches[position]), position)
    tiles = []
    ranked: list[int] = np.lexsort((np.arange(len(counts)), -counts))[:ORIGINALS].tolist()
    for image in ranked:
        if not (count := int(counts[image])):
            break
        pictures = [_picture(audited.train.store, image), _picture(audited.generated.store, best[image])]
        name, copy = audited.train.names[image], audited.generated.names[best[image]]
        alt = f"Training image {name}, and {copy}, the generated image that is most like it"
        times = f"{count:,} {'copy' if count == 1 else 'copies'}"
        tiles.append(Tile(column(pictures), alt, times, "", name, False))
    return tiles


def _picture(store: Store, position: int) -> np.ndarray:
    """One image uint8 (C, H, W), made smaller if it is larger than a thumbnail."""
    image = store.rows(slice(position, position + 1))[0]
    height, width = image.shape[1:]
    if max(height, width) <= THUMBNAIL:
        return image
    scale = THUMBNAIL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).resize(
        size, Image.Resampling.LANCZOS
    )
    pixels = np.asarray(small)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _inputs(audited: Audited, redact: bool) -> list[dict[str, str]]:
    sets: dict[str, Collection | None] = {
        "Generated": audited.generated, "Training": audited.train, "Held-out": audited.held_out,
    }  # fmt: skip
    return [
        {"name": name, "path": "" if redact else str(each.path), "sha256": each.sha256}
        for name, each in sets.items()
        if each is not None
    ]


def _command(audited: Audited, redact: bool) -> str:
    """The command that repeats the audit."""
    options = audited.options
    sets = (audited.generated.path, audited.train.path, audited.held_out and audited.held_out.path)
    generated, train, held = ("GENERATED", "TRAIN", "HELD_OUT") if redact else map(_quoted, sets)
    words = ["uv run emm audit", generated, "--train", train]
    if audited.held_out is not None:
        words += ["--held-out", held]
    criteria = (f"{each.name}={exactly(each.threshold)}" for each in options.criteria)
    words += ["--criterion", *criteria]
    for flag, value in (
        ("--features", options.features),
        ("--resize", options.resize),
        ("--group-pattern", options.group_pattern),
        ("--manifest", options.manifest),
    ):
        if value is not None:
            words += [flag, "..." if redact and flag != "--resize" else _quoted(value)]
    words += [flag for flag, on in (("--mirrored", options.mirrored), ("--redact", redact)) if on]
    return " ".join([*words, f"--fail-above {options.limit:g}"])


def _quoted(value: object) -> str:
    return shlex.quote(str(value))
