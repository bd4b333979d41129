"""What the study stage must know of a study beside the records of its arms."""

from typing import TYPE_CHECKING, Any

from emmeter.settings.keys import key
from emmeter.settings.sections import Setup
from emmeter.settings.validation import lookup

if TYPE_CHECKING:
    from emmeter.pipeline.index import Index


def description(dag: "Index", name: str) -> dict[str, Any]:
    """What the stage must know of a study beside its arms' records; a plain mapping for its command line."""
    study = dag.study(name)
    return {
        "name": study.name,
        "title": study.title,
        "source": study.source,
        "factor": study.factor,
        "as_published": as_published(dag.settings.base),
        "arms": [
            {
                "name": arm.name,
                "value": str(lookup(arm.run, study.factor)) if study.factor else "",
                "search": arm.run.search.model_dump(),
                "key": key("score", arm.run),
                "data": arm.run.data.source + (f" + {arm.run.data.mixture}" if arm.run.data.sources[1:] else ""),
                "resolution": dag.shapes[key("subset", arm.run)][1],
                "budget": arm.run.training.duration if arm.run.diffusion.denoiser == "network" else "",
                "multiple": dag.usable[key("emm", arm.run)][0],
                "available": dag.usable[key("emm", arm.run)][1],
            }
            for arm in study.arms
        ],
        "findings": [[name, finding.model_dump()] for name, finding in study.findings.items()],  # in order
    }


def as_published(base: Setup) -> bool:
    """Whether base settings have the images, resolution and training budget of the published studies (the defaults)."""
    paper = Setup()
    ours, theirs = ((run.data.source, run.data.resolution, run.training.duration) for run in (base, paper))
    return ours == theirs
