"""The index that the Snakefile asks: which runs exist for which key, and which runs a search needs next.

The loop over N exists only here, as the search replayed on the scores that exist; see `Index.trail`.
"""

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from emmeter.data import feasibility
from emmeter.data.pictures import Shape
from emmeter.data.survey import Survey
from emmeter.errors import Fault, SettingsError
from emmeter.files import checksums
from emmeter.files.layout import CACHE, RECORDS, arm_folder
from emmeter.files.scores import Scores, run_files
from emmeter.machine import external
from emmeter.measure import scatter
from emmeter.measure.outcome import Count, RunId
from emmeter.measure.quality import features
from emmeter.measure.scatter import Prior
from emmeter.measure.search import Trail, ladder, repeats, replay
from emmeter.pipeline import experiment
from emmeter.settings.keys import STAGES, Stage, key, measures, stage_settings
from emmeter.settings.sections import Setup
from emmeter.settings.sources import is_own
from emmeter.settings.studies import Settings, Study

Item = TypeVar("Item")
Versions = tuple[tuple[int, int] | None, ...]  # inode and time of change (ns) of each score of a search; None: missing


@dataclass(frozen=True)
class Search:
    """The search of one arm, as it was last replayed."""

    scores: Scores
    trail: Trail
    files: Sequence[str]
    """Paths of the scores that the search has used or waits for."""
    missing: Sequence[Path]
    """Paths of the scores that the search waits for."""
    versions: Versions
    """Versions of `files`."""


@dataclass(frozen=True)
class Index:
    """The index of a configuration: every stage key that occurs, with the settings behind it."""

    settings: Settings
    results: Path
    survey: Survey
    setups: dict[tuple[Stage, str], Setup] = field(default_factory=dict)
    keys: dict[tuple[Stage, str], dict[Stage, str]] = field(default_factory=dict)
    """All keys of each of `setups`."""
    texts: dict[tuple[Stage, str], str] = field(default_factory=dict)
    """`json` of each key that it was asked for."""
    names: dict[Stage, dict[str, list[str]]] = field(default_factory=dict)
    """Arms behind each key of a stage that `arms` was asked for."""
    sizes: dict[str, list[int]] = field(default_factory=dict)
    """Ladder of each emm key."""
    usable: dict[str, tuple[int, int]] = field(default_factory=dict)
    """`feasibility.usable` of each emm key."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """(C, H, W) of the images of each subset key."""
    emm_keys: dict[str, list[str]] = field(default_factory=dict)
    """emm keys of the arms of each study that was asked for, in order."""
    searches: dict[str, Search] = field(default_factory=dict)
    """By emm key."""
    digests: dict[Path, str] = field(default_factory=dict)
    """Checksums of the user's own networks that were asked for."""
    priors: dict[tuple[tuple[str, Versions], ...], Prior | None] = field(default_factory=dict)
    """Scatter by the scores that it was fitted to: their keys and versions."""
    impossible: dict[str, list[Fault]] = field(default_factory=dict)
    """Faults of the studies that cannot run here, by study."""
    noticed: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """(arm or empty, line) of all that the user should know, by study."""

    @cached_property
    def experiment(self) -> Path:
        """Folder of the tables, figures and page of this configuration."""
        return experiment.folder(self.results, self.settings.name, self.settings.base)

    def json(self, stage: Stage, key: str) -> str:
        """The settings of a stage as its command line takes them; one string, so that Snakemake notices any change."""
        if (stage, key) not in self.texts:  # kept, because Snakemake asks for every run
            self.texts[stage, key] = json.dumps(stage_settings(stage, self.setups[stage, key]), sort_keys=True)
        return self.texts[stage, key]

    def upstream(self, stage: Stage, stage_key: str, before: Stage) -> str:
        """Key of an earlier stage for the key of a later one."""
        return self.keys[stage, stage_key][before]

    def study(self, name: str) -> Study:
        """The study of this name."""
        return next(study for study in self.settings.studies if study.name == name)

    def scores(self, emm_key: str) -> Scores:
        """The scores of an arm, read when they are asked for."""
        snapshot = self.setups["emm", emm_key].scoring.snapshot
        return Scores(self.results, self.upstream("emm", emm_key, "score"), snapshot)

    def trail(self, emm_key: str) -> list[Path]:
        """Files of the runs that a search has used, and of those that it needs next.

        Snakemake calls this again after every finished score (a checkpoint), so the list grows until the search ends.
        """
        search = self._search(emm_key)
        return [path for run in search.trail.runs for path in run_files(search.scores, run)]

    def finished(self, emm_key: str) -> dict[RunId, Count]:
        """Counts of the runs that the search of an arm has used so far."""
        search = self._search(emm_key)
        return {run: count for run in search.trail.runs if (count := search.scores.get(run)) is not None}

    def repeating(self, studies: Iterable[str]) -> list[str]:
        """emm keys of the arms of `studies` that repeat their runs, each once: these arms show the scatter of runs.

        Studies that cannot run here contribute none.
        """
        possible = [name for name in studies if name not in self.impossible]
        keys = dict.fromkeys(emm_key for name in possible for emm_key in self.emm_keys_of(name))
        return [emm_key for emm_key in keys if repeats(self.setups["emm", emm_key].search)]

    def pending(self, studies: Iterable[str]) -> list[Path]:
        """Missing scores that the repeating searches of these studies need next; empty once all searches are done."""
        return [path for search in map(self._search, self.repeating(studies)) for path in search.missing]

    def awaited(self, studies: Iterable[str]) -> list[Path]:
        """One of the `pending` scores; empty once all searches are done.

        Whoever waits for this score and then asks again has waited for all.  A damaged score, which no job makes again,
        is awaited only if no other one is missing.
        """
        pending = self.pending(studies)
        # Jobs start in about this order, so the last one changes least often.
        missing = next((path for path in reversed(pending) if not path.exists()), None)
        return pending[-1:] if missing is None else [missing]

    def prior(self) -> Prior | None:
        """The scatter of runs, from all arms of the configuration whose searches have finished."""
        keys = self.repeating(study.name for study in self.settings.studies)
        finished = [search for search in map(self._search, keys) if search.trail.finished]
        versions = tuple((search.scores.key, search.versions) for search in finished)
        if versions not in self.priors:
            arms = [
                (scores.key, trail, {run: scores[run] for run in trail.confirm or trail.locate})
                for scores, trail in ((search.scores, search.trail) for search in finished)
            ]
            self.priors[versions] = scatter.fit(scatter.distinct(arms))
        return self.priors[versions]

    def _search(self, emm_key: str) -> Search:
        """The search of an arm, replayed only after a score has been made, or made again."""
        search = self.searches.get(emm_key)
        if search is None or search.versions != _versions(search.files):
            scores = self.scores(emm_key)
            trail = replay(self.setups["emm", emm_key].search, self.sizes[emm_key], _Counts(scores))
            files = [str(scores.path(run)) for run in trail.runs]
            missing = [scores.path(run) for run in trail.missing]
            search = self.searches[emm_key] = Search(scores, trail, files, missing, _versions(files))
        return search

    def emm_keys_of(self, study: str) -> list[str]:
        """emm keys of the arms of a study, in order."""
        if study not in self.emm_keys:  # kept, because Snakemake asks after every finished score
            self.emm_keys[study] = [key("emm", arm.setup) for arm in self.study(study).arms]
        return self.emm_keys[study]

    def arms(self, stage: Stage, stage_key: str) -> str:
        """The arms behind a key, for readers: "conditioning/unconditional, width/w16"."""
        if stage not in self.names:  # kept, because Snakemake asks for every run
            names = self.names[stage] = {}
            for study in self.settings.studies:
                for arm in study.arms:
                    names.setdefault(key(stage, arm.setup), []).append(f"{study.name}/{arm.name}")
        return ", ".join(self.names[stage].get(stage_key, []))

    def trains(self, stage: Stage, stage_key: str) -> bool:
        """True for runs whose network the stage `train` trains, which the optimum and commands of the user's lack."""
        return self.setups[stage, stage_key].kind == "network"

    def rule(self, stage: Stage, stage_key: str) -> str:
        """Name of the rule that makes the files of a key: that of the stage, or `external` for a command's images."""
        return "external" if stage == "sample" and self.setups[stage, stage_key].kind == "command" else stage

    def external(self) -> list[str]:
        """Keys of the stage `sample` whose images a command of the user's generates."""
        return sorted(key for stage, key in self.setups if self.rule(stage, key) == "external")

    def data_signature(self, subset_key: str) -> str:
        """A text that changes with the content of the user's own images and embeddings behind a subset, or empty."""
        data = self.setups["subset", subset_key].data
        signatures = [self.survey.own_images(source).signature for source in data.sources if is_own(source)]
        return " ".join([*signatures, *filter(None, [self.survey.embeddings(data)])])

    def weights_signature(self, quality_key: str) -> str:
        """A text that changes with the content of the user's own networks behind a quality; empty without these."""
        paths = filter(None, map(features.weights, self.setups["quality", quality_key].quality.features))
        return " ".join(self._digest(path) for path in paths)

    def _digest(self, path: Path) -> str:
        if path not in self.digests:  # kept, because Snakemake asks for every arm
            self.digests[path] = checksums.sha256(path) if path.is_file() else "missing"
        return self.digests[path]

    def has_own_data(self, stage: Stage, stage_key: str) -> bool:
        """True for runs on the user's own images or embeddings."""
        data = self.setups[stage, stage_key].data
        return data.embedded or any(map(is_own, data.sources))

    def why(self, studies: Iterable[str]) -> list[Fault]:
        """Faults that keep studies from running, each once, with its first arm and the number of further ones."""
        faults = [fault for study in studies for fault in self.impossible.get(study, [])]
        places = _grouped((replace(fault, where=""), fault.where) for fault in faults)
        return [replace(fault, where=where) for fault, where in places.items()]

    def notices(self, studies: Iterable[str]) -> list[str]:
        """Lines that the user should see before studies run, each once, with arms as in `why`."""
        lines = [(line, where) for study in studies for where, line in self.noticed.get(study, [])]
        return [f"{where}: {line}" if where else line for line, where in _grouped(lines).items()]

    def faults(self, studies: Iterable[str]) -> list[Fault]:
        """Faults that keep studies from running, as `why`, and those of the user's own images that they use.

        Reads the head of every image, once for all arms: too slow for every start of the workflow.
        """
        names = list(studies)
        reasons = self.why(names)
        images = self.survey.all_image_faults(arm.setup.data for name in names for arm in self.study(name).arms)
        reported = {replace(fault, where="") for fault in reasons}
        return reasons + [fault for fault in images if fault not in reported]

    def portraits(self, studies: Iterable[str]) -> list[str]:
        """Lines on the user's own data that these studies use, as far as `faults` has looked at them."""
        arms = [arm for name in studies for arm in self.study(name).arms]
        return self.survey.portraits(source for arm in arms for source in arm.setup.data.sources)

    def emm_files(self, study: str) -> list[Path]:
        """The records of the searches of a study's arms, in the order of the arms."""
        return [arm_folder(self.results, "emm", emm_key) / "emm.json" for emm_key in self.emm_keys_of(study)]

    def measured_files(self, study: str, stage: Stage) -> list[Path]:
        """The records of `quality` or `denoising` of those arms of a study that have it, in the order of the arms."""
        keys = [key(stage, arm.setup) for arm in self.study(study).arms if measures(stage, arm.setup)]
        return [arm_folder(self.results, stage, name) / RECORDS[stage] for name in keys]

    def add(self, setup: Setup) -> None:
        """Add the keys of an arm that its data allow."""
        keys: dict[Stage, str] = {stage: key(stage, setup) for stage in STAGES}
        emm_key, facts = keys["emm"], self.survey.describe(setup.data)
        self.shapes[keys["subset"]] = facts.shape
        self.usable[emm_key] = feasibility.usable(facts, setup.data)
        self.sizes[emm_key] = ladder(setup.search, *self.usable[emm_key])
        for stage, name in keys.items():
            self.setups[stage, name] = setup
            self.keys[stage, name] = keys


class _Counts(Mapping[RunId, Count]):
    """Scores of which each file is read once, because a replay asks for the same counts again and again."""

    def __init__(self, scores: Scores):
        self.scores = scores
        self.counts: dict[RunId, Count | None] = {}

    def __getitem__(self, run: RunId) -> Count:
        if run not in self.counts:
            self.counts[run] = self.scores.get(run)
        if (count := self.counts[run]) is None:
            raise KeyError(run)
        return count

    def __iter__(self) -> Iterator[RunId]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)


def _versions(files: Iterable[str]) -> Versions:
    """Versions of scores.  Each score is replaced as a whole."""
    versions = []
    for file in files:
        try:
            status = os.stat(file)
            versions.append((status.st_ino, status.st_mtime_ns))
        except OSError:
            versions.append(None)
    return tuple(versions)


def _grouped(items: Iterable[tuple[Item, str]]) -> dict[Item, str]:
    """Each different item with the first of its places, if any, and the number of further ones."""
    places: dict[Item, list[str]] = {}  # a fault of the base settings occurs in many arms
    for item, where in items:
        places.setdefault(item, []).append(where)
    return {
        item: f"{first} and {len(others)} more" if first and others else first
        for item, (first, *others) in places.items()
    }


def index_of(
    settings: Settings,
    results: Path,
    data_needed: bool = True,
    asked: Iterable[str] | None = None,
    looked: bool = True,
) -> Index:
    """Index a configuration, and check every arm against its data set.

    `Index.settings` are `settings` with the values that they leave to the data (null).

    Args:
        data_needed: images that torchvision's sets lack on this machine are a fault.
        asked: names of the studies to make.  None: those selected.  Other studies may be impossible here, for example
            because their data are missing: `Index.impossible` has the faults.
        looked: look at the user's own images for what would stop a run, or what the user should know.

    Raises:
        SettingsError: an arm of a study to be made is impossible with its data; one line per fault.
    """
    survey = Survey(results.parent / CACHE, data_needed, looked)
    index = Index(settings, results, survey)
    studies = [_index_study(index, study) for study in settings.studies]
    if faults := index.why(settings.selected if asked is None else asked):
        raise SettingsError(*faults)
    base = survey.complete(settings.base).setup
    return replace(index, settings=settings.model_copy(update={"studies": studies, "base": base}))


def _index_study(index: Index, study: Study) -> Study:
    """The study with the values that its data decide; its keys, faults and notices are added to the index."""
    if study.faults:
        index.impossible[study.name] = study.faults
        return study
    arms, faults, notices = [], [], []
    for arm in study.arms:
        where, assessed = f"studies.{study.name}.arms.{arm.name}", index.survey.assess(arm.setup)
        faults += [replace(fault, where=where) for fault in (*assessed.faults, *_program(index, arm.setup))]
        notices += [(where if notice.of_arm else "", notice.text) for notice in assessed.notices]
        arms.append(arm.model_copy(update={"setup": assessed.setup}))
        if not assessed.faults:
            index.add(assessed.setup)
    index.noticed[study.name] = notices
    if faults:
        index.impossible[study.name] = faults
    return study.model_copy(update={"arms": arms})


def _program(index: Index, setup: Setup) -> list[Fault]:
    """The fault of a command whose program this machine lacks, as far as the machine's data are needed, too."""
    if setup.model.command is None or not index.survey.data_needed:
        return []
    program = shlex.split(setup.model.command)[0]
    fault = None if "{" in program else external.missing(program)
    return [Fault("model.command", None, fault)] if fault else []
