"""Descriptions of studies and arms for command lines."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from emmeter.presentation.tables import OWN_BUDGET
from emmeter.settings.keys import Stage, measures
from emmeter.settings.published import SCALE
from emmeter.settings.sections import Setup
from emmeter.settings.studies import Arm, Settings, Study
from emmeter.settings.validation import lookup

if TYPE_CHECKING:
    from emmeter.pipeline.index import Index


def description(index: "Index", name: str) -> dict[str, Any]:
    """Describe a study for its stages, which have the records of its arms besides; a mapping that JSON can hold."""
    study = index.study(name)
    keys_of_arms = [index.keys["emm", emm_key] for emm_key in index.emm_keys_of(name)]
    return {
        "name": study.name,
        "title": study.title,
        "source": study.source,
        "factor": study.factor,
        "as_published": as_published(index.settings.base),
        "arms": [
            {
                "name": arm.name,
                "value": value(study, arm),
                "search": arm.setup.search.model_dump(),
                "key": keys["score"],
                "emm_key": keys["emm"],
                "data": arm.setup.data.source + (f" + {arm.setup.data.mixture}" if arm.setup.data.sources[1:] else ""),
                "resolution": index.shapes[keys["subset"]][1],
                "budget": budget(arm.setup),
                "multiple": index.usable[keys["emm"]][0],
                "available": index.usable[keys["emm"]][1],
            }
            for arm, keys in zip(study.arms, keys_of_arms, strict=True)
        ],
        "findings": [[name, finding.model_dump()] for name, finding in study.findings.items()],  # in order
    }


def budget(setup: Setup) -> str:
    """The training budget of an arm, as tables hold it: a span, empty without training, or that of a command."""
    if setup.kind == "network":
        return setup.training.duration
    return OWN_BUDGET if setup.kind == "command" else ""


def measured(index: "Index", name: str, stage: Stage) -> dict[str, Any]:
    """Name a study, and those of its arms that `quality` or `denoising` measures, with their values of its factor."""
    study = index.study(name)
    return {
        "name": name,
        "arms": [{"name": arm.name, "value": value(study, arm)} for arm in study.arms if measures(stage, arm.setup)],
    }


def value(study: Study, arm: Arm) -> str:
    """An arm's value of the study's factor, as text; empty if the study names no factor."""
    return str(lookup(arm.setup, study.factor)) if study.factor else ""


def outlines(settings: Settings, names: Sequence[str]) -> list[dict[str, str]]:
    """Name, title, source and factor of studies, as the page takes them."""
    studies = {study.name: study for study in settings.studies}
    return [{field: getattr(studies[name], field) for field in ("name", "title", "source", "factor")} for name in names]


def as_published(base: Setup) -> bool:
    """Check whether base settings have the images, resolution and training budget of the paper."""
    resolution = base.data.resolution or SCALE["resolution"]  # null: that of the images themselves
    return {"data": base.data.source, "resolution": resolution, "budget": base.training.duration} == SCALE


def arms_served(index: "Index", stage: Stage, key: str, studies: Collection[str], most: int = 3) -> str:
    """Names of the arms of these studies that a key of a stage serves: at most `most`, and how many more.

    An arm of another study is named only if none of `studies` needs the key.
    """
    names = index.arms(stage, key).split(", ")
    asked = [name for name in names if name.partition("/")[0] in studies] or names[:1]
    more = len(asked) - len(asked[:most])
    return ", ".join(asked[:most]) + (f" and {more} more" if more else "")
