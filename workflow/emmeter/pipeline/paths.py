"""Files that the rules of the workflow name as their input and output."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from emmeter.files.layout import arm_folder, run_folder, state_folder
from emmeter.pipeline.index import Index
from emmeter.settings.keys import Stage

FIGURES = ("curves", "emm", "gallery")
TABLES = ("emm", "curves", "contrasts", "findings", "onset", "budget")
MEASURED: dict[Stage, tuple[str, ...]] = {  # tables of studies of which an arm has the stage
    "quality": ("quality.csv", "copied.csv", "tradeoff.csv", "criteria.csv"),
    "denoising": ("denoising.csv",),
}
MEASURED_FIGURES: dict[Stage, str] = {"quality": "tradeoff", "denoising": "denoising"}
OWN = {"proportional": "onset", "forecast": "budget"}  # figures only of studies with such a claim, by what it expects
KINDS = ("svg", "png")
FEWEST_SNAPSHOTS = 3  # of every arm, for the figure of progress: fewer do not show when memorization sets in
PAGES = ("report", "study_report")  # rules that make pages


class Run(Protocol):
    """Wildcards of a rule of one run, as Snakemake passes them: key, number of training images, replicate."""

    @property
    def key(self) -> str: ...
    @property
    def n(self) -> str: ...
    @property
    def r(self) -> str: ...


@dataclass(frozen=True)
class Paths:
    """Paths as rules name them.

    A module statement with a prefix makes Snakemake move every path that a rule names.  Then `results` is the folder as
    rules name it, and `index.results` the folder on the disk.
    """

    index: Index
    results: Path

    def run(self, stage: Stage, name: str, key: str = "{key}", n: str = "{n}", r: str = "{r}") -> str:
        """Path of a file of one run; what is not given remains a wildcard."""
        return str(run_folder(self.results, stage, key, n, r) / name)

    def earlier(self, stage: Stage, before: Stage, name: str, run: Run) -> str:
        """Path of a file that the stage `before` makes of the run whose `stage` has the key `run.key`."""
        return self.run(before, name, self.index.upstream(stage, run.key, before), run.n, run.r)

    def weights(self, run: Run) -> list[str]:
        """Snapshots from which a run samples; only a network has any."""
        if not self.index.trains("sample", run.key):
            return []
        return [self.earlier("sample", "train", "snapshots.safetensors", run)]

    def records(self, run: Run) -> list[str]:
        """Records of the training and the sampling behind a score; only a network has a training of its own."""
        sampling = self.earlier("score", "sample", "sampling.json", run)
        if not self.index.trains("score", run.key):
            return [sampling]
        return [self.earlier("score", "train", "training.json", run), sampling]

    def training_state(self, run: Run) -> str:
        """Folder on the disk of the training state behind samples, which is obsolete as soon as these exist."""
        return self.state(self.index.upstream("sample", run.key, "train"), run.n, run.r)

    def state(self, key: str = "{key}", n: str = "{n}", r: str = "{r}") -> str:
        """Folder on the disk from which a killed training resumes."""
        return str(state_folder(self.index.results, key, n, r))

    def trail(self, emm_key: str) -> list[str]:
        """Files of the runs that a search has used, and of those that it asks for next."""
        return self._named(self.index.trail(emm_key))

    def emm_file(self, name: str, key: str = "{key}") -> str:
        """Path of a file of one search."""
        return str(arm_folder(self.results, "emm", key) / name)

    def searched(self, stage: Stage, key: str) -> str:
        """Path of the record of the search behind a stage that follows it."""
        return self.emm_file("emm.json", self.index.upstream(stage, key, "emm"))

    def arm_file(self, stage: Stage, name: str, key: str = "{key}") -> str:
        """Path of a file of `quality` or `denoising` of one arm."""
        return str(arm_folder(self.results, stage, key) / name)

    def measured(self, study: str, stage: Stage, name: str) -> list[str]:
        """Paths of a file of `quality` or `denoising` of each arm of a study that has it, in order."""
        return self._named([path.with_name(name) for path in self.index.measured_files(study, stage)])

    def measured_tables(self, study: str) -> list[str]:
        """Names of the tables of a study that `quality` and `denoising` add."""
        return [name for stage, names in MEASURED.items() if self.index.measured_files(study, stage) for name in names]

    def arms(self, study: str, name: str) -> list[str]:
        """Paths of a file of the finished search of each arm of a study, in order."""
        return self._named([path.with_name(name) for path in self.index.emm_files(study)])

    def awaited(self, studies: list[str]) -> list[str]:
        """A score that the searches of these studies still wait for; empty once all are done."""
        return self._named(self.index.awaited(studies))

    def study(self, name: str) -> list[str]:
        """Tables and figures of one study.

        Onset and budget are drawn for claims about them, progress where all arms have enough snapshots.
        """
        folder = self.results / self.index.experiment.name / name
        expected = {claim.expect for claim in self.index.study(name).findings.values()}
        figures = [*FIGURES, *(figure for expect, figure in OWN.items() if expect in expected)]
        setups = [arm.setup for arm in self.index.study(name).arms]
        if all(len(s.training.snapshots) >= FEWEST_SNAPSHOTS and s.kind == "network" for s in setups):
            figures.append("progress")
        figures += [figure for stage, figure in MEASURED_FIGURES.items() if self.index.measured_files(name, stage)]
        files = [*(f"{table}.csv" for table in TABLES), "emm.html"]
        files += self.measured_tables(name)
        return [str(folder / file) for file in [*files, *(f"{figure}.{kind}" for figure in figures for kind in KINDS)]]

    def _named(self, paths: list[Path]) -> list[str]:
        """Paths on the disk as rules name them."""
        if self.results == self.index.results:
            return list(map(str, paths))
        return [str(self.results / path.relative_to(self.index.results)) for path in paths]
