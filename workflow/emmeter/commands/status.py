"""``emm status``: what a workflow has done, what works now, and how long it will still take."""

import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from emmeter import locks
from emmeter.commands.present import named, present
from emmeter.files.layout import RECORDS, run_folder, state_folder
from emmeter.measure.outcome import RunId
from emmeter.pipeline.calibration import jobs_at_once
from emmeter.pipeline.course import Course, Identity, Training, outcome, remaining, scores_of, training
from emmeter.pipeline.description import arms_served
from emmeter.pipeline.index import Index
from emmeter.pipeline.plan import span
from emmeter.presentation.tables import aligned
from emmeter.settings.keys import Stage
from emmeter.training.state import LOCK

STAGES: tuple[Stage, ...] = ("train", "sample", "score")
QUIET = 60.0  # seconds after which a job that has written nothing counts as dead, beyond twice the time between lines


@dataclass(frozen=True)
class Job:
    """The last job of one stage of one run, as its log shows it."""

    stage: Stage
    key: str
    run: RunId
    log: Path
    age: float
    """Seconds since the log was written."""
    outcome: str
    """Its last line that tells how it ended; empty if there is none."""


def status(results: Path, studies: Sequence[str] = (), overlays: Sequence[Path] = ()) -> None:
    """Print runs done of about how many and the time left of each study, the running jobs, and the failed ones.

    Everything is read from files, so the command works in a second terminal, and after the workflow has ended.

    Args:
        studies: names of studies; by default those that the configuration selects.
    Raises:
        StageError: there is no such study.
    """
    index = present(results, overlays)
    names: list[str] = [named(index, name.partition("/")[0]).study.name for name in studies] or list(
        index.settings.selected
    )
    execution = index.settings.execution
    patience = QUIET + 2 * max(execution.log_seconds, execution.state_seconds)
    jobs = list(_jobs(index, names))
    running = [job for job in jobs if not job.outcome and job.age < patience]
    course = Course(index, jobs_at_once(None, execution.threads))
    progress = _progress(index, running)
    locked = any((results.parent / ".snakemake" / "locks").glob("*"))
    survey = course.survey(names, progress)
    print(_head(index, locked, running, min((job.age for job in jobs), default=None)) + "\n")
    rows = [["study", "runs done", "of about", "time left"]]
    parts = {name: Course(index, course.jobs).survey([name], progress) for name in names}
    for name, part in (parts | {"all": survey} if names[1:] else parts).items():
        left = "none" if part.done == part.runs else remaining(part.seconds).removesuffix(" left") or "not known yet"
        rows.append([name, str(part.done), str(part.runs), left])
    print(aligned(rows))
    for name in names:
        if faults := index.faults([name]):
            print(f"{name} cannot run here: {'; '.join(map(str, faults))}")
    if running:
        print("\nrunning")
        print("\n".join(f"  {_name(index, job, names)}{_part(job)}" for job in running))
    if failed := [job for job in jobs if job.outcome.startswith("error: ")]:
        print("\nfailed at the last attempt")
        print("\n".join(f"  {_name(index, job, names)}, log {job.log}\n    {job.outcome}" for job in failed))
    if not running:
        done = survey.done == survey.runs
        print("\n`emm summary` prints finished tables" if done else "\nthe same snakemake command continues")


def _head(index: Index, locked: bool, running: Sequence[Job], age: float | None) -> str:
    """Whether a workflow runs."""
    since = "" if age is None else f"; the last line of a log was written {span(age)} ago"
    if running:
        return f"{index.experiment}: {len(running)} job{'s' if running[1:] else ''} running{since}"
    if locked:
        return (
            f"{index.experiment}: a workflow has locked this folder, but no job of a run works{since}; "
            "if no Snakemake runs: snakemake --unlock"
        )
    return f"{index.experiment}: no workflow runs here{since}"


def _jobs(index: Index, studies: Collection[str]) -> Iterator[Job]:
    """The last job of each stage of each run of some studies that has a log, unless the stage is complete."""
    folder, now = index.results.parent / "logs", time.time()
    for stage in STAGES:
        for key in sorted({key for known, key in index.keys if known == stage}):
            if not any(name.partition("/")[0] in studies for name in index.arms(stage, key).split(", ")):
                continue
            rule = index.rule(stage, key)
            for log in sorted((folder / rule / key).glob("n*-r*.log")):
                n, _, replicate = log.stem[1:].partition("-r")
                run = RunId(int(n), int(replicate))
                done = run_folder(index.results, stage, key, run.n, run.replicate) / RECORDS[stage]
                if not done.is_file():
                    if rule == "external" and _locked(index, key, run):  # a command may work without a word
                        yield Job(stage, key, run, log, 0.0, "")
                    else:
                        yield Job(stage, key, run, log, max(now - log.stat().st_mtime, 0.0), outcome(log))


def _locked(index: Index, key: str, run: RunId) -> bool:
    """Whether a job holds the lock of a run's state."""
    path = state_folder(index.results, key, run.n, run.replicate) / LOCK
    if not path.is_file():
        return False
    try:
        lock = locks.acquire(path)
    except OSError:
        return False
    if lock is not None:
        os.close(lock)
    return lock is None


def _progress(index: Index, running: Sequence[Job]) -> dict[Identity, Training]:
    """Progress of running trainings, by the scores that need them."""
    found = {}
    for job in running:
        if job.stage == "train" and (part := training(job.log)):
            found |= dict.fromkeys(scores_of(index, job.key, job.run), part)
    return found


def _name(index: Index, job: Job, studies: Collection[str]) -> str:
    arms = arms_served(index, job.stage, job.key, studies)
    return f"{arms}  {index.rule(job.stage, job.key)}, N = {job.run.n}, replicate {job.run.replicate}"


def _part(job: Job) -> str:
    part = training(job.log) if job.stage == "train" else None
    if part is None:
        return ""
    left = f", {remaining(part.seconds)}" if part.seconds is not None else ""
    return f": {100 * part.share:.0f} %{left}"
