"""The studies that a start of the workflow was asked for, and what the user must know of them."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from emmeter.errors import SettingsError
from emmeter.pipeline.index import Index
from emmeter.settings.validation import expected

# Rules of all studies.
SELECTED = frozenset(
    {"all", "findings", "summary", "findings_table", "published", "shape", "report", "workflow_report"}
)


def asked_studies(index: Index, targets: Collection[str]) -> list[str]:
    """Names of the studies that make `targets`, in the order of the configuration.

    Rules and tables of all studies stand for the selected ones.  Unknown targets stand for none.

    Args:
        targets: names of rules, and paths of files.
    """
    settings = index.settings
    if SELECTED & set(targets):
        return list(settings.selected)
    joined = any(Path(target).parent == index.experiment for target in targets)
    above = {folder for target in targets for folder in Path(target).parents}
    return [
        study.name
        for study in settings.studies
        if study.name in targets
        or index.experiment / study.name in above
        or (joined and study.name in settings.selected)
    ]


def unknown(targets: Iterable[str], rules: Iterable[str]) -> list[str]:
    """One line per target that is no rule and cannot be a file of the workflow, with the nearest name.

    A target with a slash or a dot, or of a file that exists, may be a file: Snakemake knows better.
    """
    names = list(rules)
    words = [target for target in targets if target not in names and not {"/", "."} & set(target)]
    return [f"{word}: {expected(word, names, 'a study or a rule')}" for word in words if not Path(word).exists()]


def prior_json(index: Index, studies: Iterable[str]) -> str:
    """The scatter of runs over all finished arms, as the study stage takes it.

    "null" if there is none, and while searches of `studies` are under way.
    """
    if index.pending(studies) or (prior := index.prior()) is None:
        return "null"
    return json.dumps({name: float(f"{value:.6g}") for name, value in vars(prior).items()}, sort_keys=True)


def ready(index: Index, studies: Iterable[str]) -> list[str]:
    """Studies that have all their runs, but no tables as long as other ones among `studies` wait for runs."""
    names = list(studies)
    if not index.pending(names):
        return []
    return [name for name in names if name not in index.impossible and not index.pending([name])]


def waiting(targets: Collection[str]) -> str:
    """A message for the user about studies that are `ready`; `targets` are the rules that make their tables."""
    return (
        "Tables wait for the runs of all requested studies, because these estimate the scatter of runs together. "
        "Some studies have all their runs. To make their tables without the others: "
        f"`snakemake {' '.join(targets)}`."
    )


@dataclass(frozen=True)
class Looks:
    """Studies whose images have been looked at, and the lines about them that the user has seen."""

    index: Index
    studies: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)

    def at(self, study: str) -> list[str]:
        """Look at the user's own images behind a study; return new lines for the user.

        If the study is selected, faults and notices are those of all selected studies, which are usually made together.

        Raises:
            SettingsError: the study cannot run here; one line per fault.
        """
        settings = self.index.settings
        asked = settings.selected if study in settings.selected else [study]
        if self.index.faults([study]):
            raise SettingsError(*self.index.faults(asked))
        self.studies.add(study)
        lines = [f"data: {line}" for line in self.index.portraits([study])]
        lines += [f"note: {line}" for line in self.index.notices(asked)]
        new = [line for line in dict.fromkeys(lines) if line not in self.shown]
        self.shown.update(new)
        return new
