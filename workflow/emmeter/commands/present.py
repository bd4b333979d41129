"""The configuration in force where a command is called, and its experiment."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emmeter.errors import StageError
from emmeter.pipeline.index import Index, index_of
from emmeter.settings.configuration import load, read
from emmeter.settings.keys import key
from emmeter.settings.studies import Arm, Study
from emmeter.settings.validation import expected


def present(results: Path, overlays: Sequence[Path], data_needed: bool = False) -> Index:
    """The index of the configuration in the working directory, with overlays; no image is read.

    Raises:
        SettingsError: the configuration is wrong.
    """
    settings = read(load(overlays), asked=())
    return index_of(settings, results, data_needed=data_needed, asked=(), looked=False)


def arm_keys(index: Index) -> dict[tuple[str, str], str]:
    """Key of the search of each arm that can be made here, by study and arm."""
    return {
        (study.name, arm.name): key("emm", arm.setup)
        for study in index.settings.studies
        if study.name not in index.impossible
        for arm in study.arms
    }


@dataclass(frozen=True)
class Named:
    """A study that a command was asked for, and the arms in question."""

    study: Study
    arms: Sequence[Arm]


def named(index: Index, text: str) -> Named:
    """The study and the arms behind STUDY or STUDY/ARM.

    Raises:
        StageError: there is no such study or arm; the message lists those that there are, or what keeps the study from
            being made here.
    """
    name, _, arm_name = text.partition("/")
    names = [study.name for study in index.settings.studies]
    if name not in names:
        raise StageError(f"{text}: {expected(name, names, 'a study')}")
    if faults := index.faults([name]):
        raise StageError("; ".join(map(str, faults)))
    study = index.study(name)
    arms = [arm for arm in study.arms if arm_name in ("", arm.name)]
    if not arms:
        raise StageError(f"{text}: {expected(arm_name, [arm.name for arm in study.arms], 'an arm of the study')}")
    return Named(study, arms)
