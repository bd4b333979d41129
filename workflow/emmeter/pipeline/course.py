"""The course of a workflow: which of its runs are done, which jobs work, and how long the rest will take.

The search of each arm is replayed on the scores that exist and continues along an assumed curve, as in
`emmeter.pipeline.plan`.  The plan measures the machine.  Here the time follows from the records of finished runs, so
that an answer costs nothing and torch is not needed.
"""

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from emmeter.errors import DataError
from emmeter.files import records
from emmeter.files.records import ScoreRecord
from emmeter.measure.outcome import Count, RunId
from emmeter.measure.search import Trail, replay
from emmeter.pipeline.costs import PER_RUN, START, Assumed
from emmeter.pipeline.index import Index
from emmeter.pipeline.plan import in_turn, span
from emmeter.settings.keys import key
from emmeter.settings.sections import Setup

FEW = 3  # finished runs of this process from which its own speed is known
SLOWEST, FASTEST = 5.0, 0.5  # limits of the ratio of measured to expected time
Identity = tuple[str, RunId]  # a run with its score key


@dataclass(frozen=True)
class Training:
    """Progress of a running training, as its log shows it."""

    share: float
    """Share of its budget, 0 to 1."""
    seconds: float | None
    """Seconds that it still takes; None if unknown."""


@dataclass(frozen=True)
class Survey:
    """The state of the requested studies at one moment."""

    done: int
    """Runs with a score."""
    runs: int
    """Runs in all, of which the last ones are assumed."""
    open_arms: Sequence[str]
    """Arms that still need runs, as study/arm."""
    arms: int
    """All arms."""
    share: float
    """Share of the work that is done, 0 to 1."""
    seconds: float | None
    """Seconds until all runs are done; None as long as no run has finished."""


@dataclass
class Pace:
    """Seconds of runs, learned from the records of finished ones."""

    seen: dict[Path, float] = field(default_factory=dict)
    """Seconds by record."""
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Seconds and amount of work of all finished runs, by kind of network."""

    def learn(self, path: Path, setup: Setup, n: int) -> None:
        """Read the seconds of a finished run from its score.json, once."""
        if path in self.seen:
            return
        try:
            self.seen[path] = seconds = float(records.read(path, ScoreRecord)["cost"]["seconds"])
        except (OSError, DataError, ValueError, KeyError, TypeError):
            return
        before, amount = self.sums.get(kind(setup), (0.0, 0.0))
        self.sums[kind(setup)] = before + seconds, amount + work(setup, n)

    def seconds(self, setup: Setup, n: int) -> float | None:
        """Seconds that a run takes; None if no run has finished.

        A network of which no run has finished takes as long per training image as the others do on average.
        """
        own = self.sums.get(kind(setup))
        if own is None and setup.kind == "command":  # other runs say nothing about it
            return None if setup.model.minutes is None else PER_RUN + 60 * setup.model.minutes
        if own is None and setup.kind == "optimum":
            return (START + PER_RUN) if self.sums else None
        trained = [sums for name, sums in self.sums.items() if name[0] == "["]
        seconds, amount = own or (sum(part[0] for part in trained), sum(part[1] for part in trained))
        return PER_RUN + seconds / amount * work(setup, n) if amount else None


def kind(setup: Setup) -> str:
    """What decides the speed of a run: "optimum", "command" with its line, or network and resolution as a JSON list."""
    if setup.kind == "command":
        return f"command {setup.model.command}"
    if setup.kind == "optimum":
        return "optimum"
    return json.dumps([setup.network.model_dump(), setup.data.resolution, setup.training.gpus])


def work(setup: Setup, n: int) -> float:
    """Amount of work of a run in proportion to others of its kind: training images; 1 without a network of ours."""
    if setup.kind != "network":
        return 1.0
    from emmeter.training.schedule import budget

    return float(budget(setup, n).images)


class Course:
    """The course of the requested studies.

    Attributes:
        index: the index of the configuration; the course keeps replays of its own, so that another thread may use it.
        jobs: number of jobs that run at once.
        shown: the largest share of the work that `survey` has returned.
    """

    def __init__(self, index: Index, jobs: int = 1):
        self.index = replace(index, searches={}, priors={}, names={}, emm_keys={})
        self.jobs = jobs
        self.pace = Pace()
        self.shown = 0.0
        self._trails: dict[str, tuple[dict[RunId, Count], Trail]] = {}
        self._begun: tuple[float, frozenset[Identity]] | None = None

    def survey(
        self, studies: Iterable[str], running: Mapping[Identity, Training] | None = None, now: float | None = None
    ) -> Survey:
        """Look at all scores of some studies.

        The share of the work never falls from one call to the next, although searches may ask for more runs than
        assumed.

        Args:
            studies: names of studies; those that cannot run here are left out.
            running: progress of the trainings of runs without a score.
            now: seconds of a clock, for tests.
        """
        now = time.monotonic() if now is None else now
        done: dict[Identity, float | None] = {}
        todo: dict[Identity, tuple[Setup, int]] = {}
        open_arms: list[str] = []
        chains: list[list[Identity]] = []
        arms = 0
        possible = [self.index.study(name) for name in studies if name not in self.index.impossible]
        for name, arm in ((study.name, arm) for study in possible for arm in study.arms):
            setup, score_key = arm.setup, key("score", arm.setup)
            counts, trail = self._trail(setup)
            arms += 1
            scores = self.index.scores(key("emm", setup))
            for run in trail.runs:
                if run in counts:
                    self.pace.learn(scores.path(run), setup, run.n)
                    done[score_key, run] = self.pace.seconds(setup, run.n)
                else:
                    todo[score_key, run] = setup, run.n
            if any(run not in counts for run in trail.runs):
                open_arms.append(f"{name}/{arm.name}")
            chains.append([(score_key, run) for run in in_turn(setup, trail) if run not in counts])
        self._begun = self._begun or (now, frozenset(done))
        trained: set[tuple[str, RunId]] = set()
        left: dict[Identity, float] = {}
        known, whole = True, 0.0
        for identity, (setup, n) in todo.items():
            seconds = self.pace.seconds(setup, n)
            known = known and seconds is not None
            training = key("train", setup), identity[1]
            if seconds is None:
                seconds = 1.0
            elif training in trained:  # another arm trains it; sampling and scoring remain
                seconds = START + PER_RUN
            trained.add(training)
            part = (running or {}).get(identity)
            whole += seconds
            left[identity] = seconds * (1 - part.share) if part else seconds
        rest, finished = sum(left.values()), sum(seconds or 1.0 for seconds in done.values())
        share = min(1 - rest / (finished + whole), 0.99) if todo else 1.0
        self.shown = max(self.shown, share)
        longest = max((sum(left[identity] for identity in chain) for chain in chains), default=0.0)
        seconds = max(rest / max(self.jobs, 1), longest) * self._ratio(done, now) if known else None
        return Survey(len(done), len(done) + len(todo), open_arms, arms, self.shown, seconds)

    def _trail(self, setup: Setup) -> tuple[dict[RunId, Count], Trail]:
        """Counts of an arm, and its search as it will probably end; replayed only after another score."""
        emm_key = key("emm", setup)
        counts = self.index.finished(emm_key)
        if emm_key not in self._trails or self._trails[emm_key][0] != counts:
            trail = replay(setup.search, self.index.sizes[emm_key], Assumed(setup, counts))
            self._trails[emm_key] = counts, trail
        return self._trails[emm_key]

    def _ratio(self, done: Mapping[Identity, float | None], now: float) -> float:
        """How much longer runs have taken since the first survey than their records say, for starts and waiting."""
        assert self._begun is not None
        begun, before = self._begun
        mine = [seconds for identity, seconds in done.items() if identity not in before and seconds]
        expected = sum(mine) / max(self.jobs, 1)
        if len(mine) < FEW or not expected:
            return 1.0
        return min(max((now - begun) / expected, FASTEST), SLOWEST)


def scores_of(index: Index, train_key: str, run: RunId) -> list[Identity]:
    """The runs, by their score keys, that a training serves."""
    return [
        (name, run) for (stage, name), keys in index.keys.items() if stage == "score" and keys["train"] == train_key
    ]


def training(log: Path) -> Training | None:
    """Progress of a training from the last lines of its log; None if they do not show any, or it has ended."""
    for line in reversed(tail(log)):
        if match := re.match(r"(\d+)/(\d+) images, .*?([\d.]+) s left", line):
            return Training(int(match[1]) / max(int(match[2]), 1), float(match[3]))
        if line.startswith(("end: ", "error: ", "interrupted: ")):
            return None
        if line.startswith("train: "):
            resumed = re.search(r"train: (\d+) images.*resumed at (\d+) images", line)
            return Training(int(resumed[2]) / max(int(resumed[1]), 1) if resumed else 0.0, None)
    return None


def tail(log: Path, size: int = 4096) -> list[str]:
    """The last lines of a log; none if there is no such file."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - size, 0))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def outcome(log: Path) -> str:
    """The last line of a log that says how its job ended: "end: ...", "error: ..." or "interrupted: ...", or empty."""
    ends = ("end: ", "error: ", "interrupted: ")
    return next((line for line in reversed(tail(log)) if line.startswith(ends)), "")


def remaining(seconds: float | None) -> str:
    """The time left for readers: "about 3 minutes left"; empty if it is unknown."""
    if seconds is None:
        return ""
    if seconds < 50:
        return "less than a minute left"
    if seconds < 5400:
        minutes = max(round(seconds / 60), 1)
        return f"about {minutes} minute{'' if minutes == 1 else 's'} left"
    return f"about {span(seconds)} left"
