"""What the Snakefile asks: which runs exist for which key, and which a search wants next.

The loop over N lives here alone, as the search replayed on the scores that exist; see `Dag.trail`.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emm import checksums, datasets, scatter, subset
from emm.datasets import DataError
from emm.keys import Stage, emm_folder, key, run_folder, stage_settings
from emm.scatter import Prior
from emm.search import Count, RunId, Trail, ladder, replay
from emm.settings import Run, Settings, SettingsError, Study

# Settings of data that decide which images are used, and what they must be.
_CHOICES = ("sources", "classes", "mixture_classes", "resolution", "fit")
END = 65_536  # bytes at the end of an .npz file that hold its directory


@dataclass(frozen=True)
class Scores(Mapping[RunId, Count]):
    """Counts of the finished runs of one score key, read from their files when asked for.

    A file that is missing, damaged or changed since it was written counts as a run that has not been made.
    """

    results: Path
    key: str
    snapshot: str  # "last" or "best"

    def path(self, run: RunId) -> Path:
        return run_folder(self.results, "score", self.key, run.n, run.replicate) / "score.json"

    def __getitem__(self, run: RunId) -> Count:
        try:
            return count(checksums.read_json(self.path(run)), self.snapshot)
        except (OSError, ValueError, KeyError, TypeError):
            raise KeyError(run) from None

    def __iter__(self) -> Iterator[RunId]:
        for path in sorted((self.results / "scores" / self.key).glob("n*/r*/score.json")):
            yield RunId(int(path.parts[-3][1:]), int(path.parts[-2][1:]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def count(score: Mapping[str, Any], snapshot: str) -> Count:
    """The count that enters the search: of the last snapshot, or of the best one (the paper's rule)."""
    rows = score["snapshots"]
    row = rows[-1] if snapshot == "last" else max(rows, key=lambda row: row["memorized"] / row["images"])
    return Count(row["memorized"], row["images"])


@dataclass(frozen=True)
class Dag:
    """The index of a configuration: every stage key that occurs, with the settings behind it."""

    settings: Settings
    results: Path
    runs: dict[tuple[Stage, str], Run] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)  # ladder of each emm key
    usable: dict[str, tuple[int, int]] = field(default_factory=dict)  # `subset.usable` of each emm key
    trails: dict[str, Trail] = field(default_factory=dict)  # where the search of each emm key stands, as far as known
    priors: dict[tuple[str, ...], Prior | None] = field(default_factory=dict)  # of finished emm keys
    shapes: dict[str, datasets.Shape] = field(default_factory=dict)  # of the images of each subset key
    own: dict[Path, "OwnData"] = field(default_factory=dict)  # the user's own files and folders
    inventories: dict[str, datasets.Inventory] = field(default_factory=dict)  # of the user's own data, by source
    impossible: dict[str, list[tuple[str, str]]] = field(
        default_factory=dict
    )  # arms and faults of studies that cannot run

    def json(self, stage: Stage, key: str) -> str:
        """A stage's settings as its command line takes them; one string, so that Snakemake notices any change."""
        return json.dumps(stage_settings(stage, self.runs[stage, key]), sort_keys=True)

    def upstream(self, stage: Stage, key_of: str, before: Stage) -> str:
        """Key of an earlier stage for the key of a later one."""
        return key(before, self.runs[stage, key_of])

    def study(self, name: str) -> Study:
        return next(study for study in self.settings.studies if study.name == name)

    def scores(self, emm_key: str) -> Scores:
        run = self.runs["emm", emm_key]
        return Scores(self.results, key("score", run), run.scoring.snapshot)

    def trail(self, emm_key: str) -> list[Path]:
        """Files of the runs that a search has used, and of those that it asks for next.

        Snakemake calls this again whenever a score (a checkpoint) is finished, so the list grows until the search ends.
        """
        scores = self.scores(emm_key)
        found = replay(self.runs["emm", emm_key].search, self.sizes[emm_key], scores)
        return [path for run in found.runs for path in run_files(scores, run)]

    def emm_keys(self, studies: Iterable[str]) -> list[str]:
        """Keys of the arms of `studies`, each once; of studies that cannot run here there are none."""
        arms = (arm for study in studies if study not in self.impossible for arm in self.study(study).arms)
        return list(dict.fromkeys(key("emm", arm.run) for arm in arms))

    def pending(self, studies: Iterable[str]) -> list[Path]:
        """Scores that searches of these studies ask for and that are not there yet; empty once all have finished."""
        return [
            scores.path(run)
            for emm_key, scores in ((one, self.scores(one)) for one in self.emm_keys(studies))
            for run in self._trail(emm_key, scores).missing
        ]

    def prior(self) -> Prior | None:
        """How much runs scatter, by all arms of the configuration whose searches have finished."""
        keys = self.emm_keys(study.name for study in self.settings.studies)
        finished = tuple(one for one in keys if self._trail(one, self.scores(one)).finished)
        if finished not in self.priors:
            known = []
            for one in finished:
                trail, scores = self.trails[one], self.scores(one)
                known.append(
                    (
                        key("score", self.runs["emm", one]),
                        trail,
                        {run: scores[run] for run in trail.confirm or trail.locate},
                    )
                )
            self.priors[finished] = scatter.fit(scatter.distinct(known))
        return self.priors[finished]

    def _trail(self, emm_key: str, scores: Scores) -> Trail:
        """Where a search stands; replayed only when a run that it waits for has been scored."""
        known = self.trails.get(emm_key)
        if known is None or any(scores.path(run).exists() for run in known.missing):
            known = self.trails[emm_key] = replay(self.runs["emm", emm_key].search, self.sizes[emm_key], scores)
        return known

    def arms(self, stage: Stage, key_of: str) -> str:
        """The arms behind a key, for readers: "conditioning/unconditional, width/w16"."""
        names = [
            f"{study.name}/{arm.name}"
            for study in self.settings.studies
            for arm in study.arms
            if key(stage, arm.run) == key_of
        ]
        return ", ".join(names)

    def is_optimum(self, stage: Stage, key_of: str) -> bool:
        return self.runs[stage, key_of].diffusion.denoiser == "optimum"

    def data_files(self, subset_key: str) -> list[str]:
        """The user's own files behind a subset, so that a change of them is noticed."""
        return [data.file for data in self._own_data(subset_key)]

    def data_signature(self, subset_key: str) -> str:
        """What changes with the user's own files where their times do not tell: one that is older took their place."""
        return " ".join(data.signature for data in self._own_data(subset_key))

    def _own_data(self, subset_key: str) -> list["OwnData"]:
        found = []
        for kind, _, place in (source.partition(":") for source in self.runs["subset", subset_key].data.sources):
            if kind in ("npz", "folder"):
                path = Path(place).expanduser()
                if path not in self.own:  # once, however many jobs ask
                    self.own[path] = _folder(path) if kind == "folder" else _npz(path)
                found.append(self.own[path])
        return found

    def why(self, studies: Iterable[str]) -> list[str]:
        """Why studies cannot run: one line a fault, with the first arm that has it, and how many more."""
        places: dict[str, list[str]] = {}  # one fault in the base settings meets many arms
        for place, fault in (one for study in studies for one in self.impossible.get(study, [])):
            places.setdefault(fault, []).append(place)
        return [
            f"{first}{f' and {len(more)} more' if more else ''}: {fault}" for fault, (first, *more) in places.items()
        ]

    def faults(self, studies: Iterable[str]) -> list[str]:
        """Why studies cannot run, as `why`, and what is wrong with the user's own images that they use.

        Every image's head is read, once however many arms use it: not for every start of the workflow.
        """
        names = list(studies)
        told = self.why(names)
        used = [arm.run.data for name in names for arm in self.study(name).arms]
        different = {str([getattr(data, name) for name in _CHOICES]): data for data in used}
        lines = (datasets.image_faults(data, self.inventories) for data in different.values())
        found = dict.fromkeys(line for one in lines for line in one)
        return told + [line for line in found if not any(fault.endswith(line) for fault in told)]

    def portraits(self, studies: Iterable[str]) -> list[str]:
        """What the user's own data hold that these studies use, of those that `faults` has looked at."""
        arms = [arm for name in studies for arm in self.study(name).arms]
        sources = dict.fromkeys(source for arm in arms for source in arm.run.data.sources)
        held = [self.inventories[source] for source in sources if source in self.inventories]
        return [line for one in held for line in datasets.portrait(one)]

    def emm_files(self, study: str) -> list[Path]:
        return [emm_folder(self.results, key("emm", arm.run)) / "emm.json" for arm in self.study(study).arms]


@dataclass(frozen=True)
class OwnData:
    """An .npz file or a folder of images of the user: the file that stands for it, and a digest that follows it."""

    file: str
    signature: str


def _folder(folder: Path) -> OwnData:
    """The image that was changed last stands for all; images that come or go, or change in size, change the digest.

    Not noticed is an older image in the place of another of the same name and size; `emm verify` does.
    """
    images = [(image, image.stat()) for image in datasets.folder_files(folder)[0]]
    newest, _ = max(images, key=lambda one: (one[1].st_mtime_ns, one[0]))
    digest = hashlib.sha256()
    for image, found in images:
        digest.update(os.fsencode(f"{image.relative_to(folder)}\0{found.st_size}\0"))
    return OwnData(str(newest), digest.hexdigest()[:16])


def _npz(path: Path) -> OwnData:
    """The digest is of the file's size and of its end, where the sums of its arrays stand."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        file.seek(max(size - END, 0))
        digest.update(file.read())
    return OwnData(str(path), digest.hexdigest()[:16])


def run_files(scores: Scores, run: RunId) -> tuple[Path, Path]:
    """What one run contributes to its arm: its score and its gallery."""
    path = scores.path(run)
    return path, path.with_name("gallery.npz")


def index(settings: Settings, results: Path, data_needed: bool = True, asked: Iterable[str] | None = None) -> Dag:
    """Index a configuration, checking every arm against its data set.

    With `data_needed`, images that torchvision's sets lack on this machine are a fault too.
    A study that is not to be made (`asked`; None: those selected) may be impossible here (its data may be missing, or
    its values not fit the base settings); `Dag.impossible` tells why.
    Raises:
        SettingsError: an arm of a study that is to be made is impossible with its data; one line for each fault.
    """
    dag = Dag(settings, results)
    facts: dict[str, datasets.Facts] = {}
    for study in settings.studies:
        places = [(place, fault) for place, _, fault in (line.partition(": ") for line in study.faults)]
        if not places:
            for arm in study.arms:
                place = f"studies.{study.name}.arms.{arm.name}"
                places += [(place, fault) for fault in _index_arm(dag, arm.run, facts, data_needed)]
        if places:
            dag.impossible[study.name] = places
    if faults := dag.why(settings.selected if asked is None else asked):
        raise SettingsError(*faults)
    return dag


def _index_arm(dag: Dag, run: Run, facts: dict[str, datasets.Facts], data_needed: bool) -> list[str]:
    """Add one arm to the index, or say what its data make impossible."""
    data = run.data.model_dump_json()
    try:
        if data not in facts:
            facts[data] = datasets.describe(run.data)
    except (DataError, OSError) as error:
        return datasets.image_faults(run.data, dag.inventories) or [f"data.source = {run.data.source!r}: {error}"]
    found = subset.faults(run, facts[data])
    if any("resolution" in line for line in found):  # the first image, whose size is meant, may be the odd one
        found = datasets.image_faults(run.data, dag.inventories) or found
    if data_needed and (missing := datasets.absent(run.data)):
        found.append(f"data.source = {run.data.source!r}: {missing}")
    if not found:
        dag.shapes[key("subset", run)] = facts[data].shape
        dag.usable[key("emm", run)] = subset.usable(facts[data], run.data)
        dag.sizes[key("emm", run)] = ladder(run.search, *dag.usable[key("emm", run)])
        stages: list[Stage] = ["subset", "train", "sample", "score", "emm"]
        dag.runs.update({(stage, key(stage, run)): run for stage in stages})
    return found
