"""The figures of a study on the page, each in a wide form and in a narrow one for phones."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from markupsafe import Markup

from emmeter.measure.by_noise import at_emm
from emmeter.presentation.curves_figure import draw_curves, has_line, levels
from emmeter.presentation.denoising_figure import draw_denoising
from emmeter.presentation.figures import draw_budget, draw_onset
from emmeter.presentation.inline import inline
from emmeter.presentation.page.material import StudyMaterial
from emmeter.presentation.page.parts import Drawing
from emmeter.presentation.page.words import NBSP, span
from emmeter.presentation.sentences import finding
from emmeter.presentation.shape_figure import draw_study_shape, in_order
from emmeter.presentation.style import TOGETHER, Figure, styled
from emmeter.presentation.tables import answer
from emmeter.presentation.tradeoff_figure import draw_tradeoff, study_points
from emmeter.settings.sections import Figures

WIDE, NARROW = 6.6, 3.4  # inches of the two drawings of a figure; phones show the narrow one


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
    if study.onset is not None and len(study.onset["onset_images"].dropna()) > 1:
        onset, title = study.onset, "Memorization sets in later for larger training sets"
        drawn.append(
            Drawing(
                title="When memorization sets in",
                subtitle="Training images seen when half of the generated images are near copies, by N.",
                caption=["A point is one run. The dashed line is growth in proportion to N."],
                **both(lambda style: draw_onset(onset, style), f"{study.name}-onset", title, title),
            )
        )
    if study.budget is not None and len(study.budget):
        budget, title = study.budget, "EMM against the training budget"
        drawn.append(
            Drawing(
                title=title,
                subtitle="EMM by the number of images that a run sees in training.",
                caption=["The curve is the law through all arms but the last; the last arm tests its forecast."],
                **both(lambda style: draw_budget(budget, style), f"{study.name}-budget", title, title),
            )
        )
    if study.shape is not None:
        shape, order = study.shape, in_order(study.shape.to_dict("records"))
        title = "Beside the published numbers"
        drawn.append(
            Drawing(
                title=title,
                subtitle="Ratios to the first arm, and shares of copies, published and ours.",
                caption=[
                    "Unless the settings are those of the paper, image size, network and training budget differ. Then "
                    "only shapes compare: the order of arms, their ratios, and the share of copies at equal multiples "
                    "of EMM.",
                    "On the dashed diagonal, our share of copies equals the published one.",
                ],
                **both(lambda style: draw_study_shape(shape, style), f"{study.name}-shape", title, f"{title}: {order}"),
            )
        )
    return drawn + tradeoffs(study) + by_noise(study)


def tradeoffs(study: StudyMaterial) -> list[Drawing]:
    """Memorization against quality, one figure per space of features in which anything was compared."""
    if study.quality is None:
        return []
    runs, title = study_points(study.emm, study.curves, study.quality), "Copies against image quality"
    drawn = []
    for number, features in enumerate(dict.fromkeys(run.features for run in runs)):
        shown = [run for run in runs if run.features == features]
        draw = partial(draw_tradeoff, shown, levels(study.emm))
        measures = (
            "Fréchet distance" if len({run.arm for run in shown}) > TOGETHER else "Fréchet distance and precision"
        )
        caption = [
            "A point is one run. A line leads through the mean distances of an arm, from its smallest N to its "
            "largest. The upright line is where other real images are. Distances are in units of theirs.",
        ]
        if any(run.unfinished for run in shown):
            caption.append("Open: runs that were not trained to the end.")
        drawn.append(
            Drawing(
                title=title,
                subtitle=f"Share of near copies by {measures} of the images, against held-out ones, by {features}.",
                caption=caption,
                **both(draw, f"{study.name}-tradeoff{number or ''}", title, f"{title}, {measures}, one point per run."),
            )
        )
    return drawn


def by_noise(study: StudyMaterial) -> list[Drawing]:
    """Errors at single noise levels, if anything was denoised."""
    if study.denoising is None:
        return []
    found = at_emm(study.emm.to_dict("records"), study.denoising.to_dict("records"))
    if not found:
        return []
    title = "Where in the noise networks memorize"
    caption = [
        "Networks at the end of their training, at the size nearest to the EMM of each arm; means over runs.",
        "First: held-out loss over training loss. Above 1, training images are denoised better than new ones.",
        "Second: on training images, mean squared distance to the optimum over that to the linear denoiser. Below 1, "
        "the network is nearer to the optimum, which replays the training set.",
    ]
    return [
        Drawing(
            title=title,
            subtitle="Held-out loss over training loss, and nearness to the optimum, by noise level.",
            caption=caption,
            **both(lambda style: draw_denoising(found, style), f"{study.name}-denoising", title, title),
        )
    ]


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
