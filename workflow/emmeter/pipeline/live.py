"""A running workflow for the user's eyes: one line per finished run, how far it is, and how it ended.

`Live` turns Snakemake's log events into lines.  The logger plugin `snakemake_logger_plugin_emmeter` passes it the
events and prints what it returns.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from emmeter.files import records
from emmeter.files.layout import RECORDS, run_folder
from emmeter.files.records import ScoreRecord
from emmeter.measure import estimate as estimates
from emmeter.measure.outcome import RunId, count
from emmeter.measure.search import replay
from emmeter.measure.trained import doubted
from emmeter.pipeline import changes, requests
from emmeter.pipeline.course import Course, Identity, Survey, Training, outcome, remaining, scores_of, tail, training
from emmeter.pipeline.description import arms_served
from emmeter.presentation.tables import brief
from emmeter.settings.keys import Stage

BAR = 24  # characters
CUT_SHORT = ("interrupted: ", "KeyboardInterrupt")  # last lines of jobs that were asked to end
INTERRUPTED = "interrupted: finished runs and the states of trainings are saved; the same command resumes"
STOPPING = "stopping: running trainings save their state"
RUNS = ("subset", "train", "sample", "external", "score")
TABLES = {
    "study": "tables",
    "figures": "figures",
    "onset_figure": "figures",
    "budget_figure": "figures",
    "progress_figure": "figures",
    "tradeoff": "figures",
    "criteria_table": "tables",
    "denoising_table": "tables",
    "study_report": "page",
}
KNOWN_FAILURES = ("RuleException", "CalledProcessError")  # what a failed job's own log says better
TELLS_NOTHING = "At least one job did not complete successfully"


@dataclass(frozen=True)
class Job:
    """A job that Snakemake has started."""

    rule: str
    """Name of the rule in this workflow's own files."""
    wildcards: Mapping[str, str]
    log: Path | None

    @property
    def run(self) -> RunId:
        """N and replicate of a job of one run."""
        return RunId(int(self.wildcards["n"]), int(self.wildcards["r"]))


@dataclass
class Live:
    """What a user should see of a workflow.

    Attributes:
        rules: the workflow's own names of rules, by their names in the whole workflow.
        asked: names of the requested studies, known only once the workflow has its targets.
        dryrun: whether jobs are only planned.
    """

    course: Course
    rules: Mapping[str, str]
    asked: Callable[[], Sequence[str]]
    dryrun: bool = False
    jobs: dict[int, Job] = field(default_factory=dict)
    """Jobs that have started and not ended, by Snakemake's number."""
    survey: Survey | None = None
    told: int = 0
    """Number of finished runs that lines have told."""
    made: dict[str, list[str]] = field(default_factory=dict)
    """Studies by what was made of them; the page belongs to no study."""
    failures: dict[str, list[str]] = field(default_factory=dict)
    """Names of failed jobs by their error line."""
    stats: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, set[str]] = field(default_factory=dict)
    interrupted: bool = False
    """Whether Snakemake was asked to end."""
    cut_short: set[int] = field(default_factory=set)
    """Numbers of jobs that were asked to end, by anyone, and have not been finished since."""

    def lines(self, event: str | None, fields: Mapping[str, Any], message: str) -> list[str]:
        """The lines to print for an event.

        Args:
            event: Snakemake's name of the event, such as "job_finished"; None for a plain message.
            fields: the attributes of the log record.
            message: the text of the record.
        """
        handlers = {
            "resources_info": self._resources,
            "run_info": self._begun,
            "job_info": self._started,
            "job_finished": self._finished,
            "job_error": self._failed,
            "error": self._error,
        }
        if event is None:
            return self._message(message)
        return handlers[event](fields) if event in handlers else []

    def _message(self, message: str) -> list[str]:
        if message.startswith("Terminating processes on user request"):
            self.interrupted = True
            return [STOPPING]
        if (match := re.match(r"Trying to restart job (\d+)", message)) and (job := self.jobs.get(int(match[1]))):
            return [f"{self._name(job)}: failed, and is tried again"]
        return [message]

    def _resources(self, fields: Mapping[str, Any]) -> list[str]:
        threads = self.course.index.settings.execution.threads
        if cores := fields.get("cores"):
            self.course.jobs = max(1, int(cores) // threads)
        elif nodes := fields.get("nodes"):
            self.course.jobs = min(int(nodes), 10_000)
        return []

    def _begun(self, fields: Mapping[str, Any]) -> list[str]:
        """What the workflow will do, in a sentence per study."""
        self.stats = {self.rules.get(name, name): number for name, number in (fields.get("stats") or {}).items()}
        if self.dryrun:
            return []
        if not self.told:  # Snakemake reports once more at its end
            self.refresh()
            self.told = self.survey.done if self.survey else 0
        return self.plan()

    def plan(self) -> list[str]:
        """What is to be done, and why."""
        if not self.stats:
            return []
        studies = list(self.asked())
        survey = self.course.survey(studies)
        new = survey.runs - survey.done
        some = changes.sentences(self.course, studies) if any(self.stats.get(rule) for rule in (*RUNS, "emm")) else []
        return some + changes.again(self.stats, self.reasons, new)

    def _started(self, fields: Mapping[str, Any]) -> list[str]:
        rule = self.rules.get(fields["rule_name"], fields["rule_name"])
        log = next(iter(fields.get("log") or ()), None)
        self.jobs[fields["jobid"]] = Job(rule, dict(fields.get("wildcards") or {}), Path(log) if log else None)
        self.reasons.setdefault(rule, set()).update(str(fields.get("reason") or "").split("; "))
        return []

    def _finished(self, fields: Mapping[str, Any]) -> list[str]:
        job = self.jobs.pop(fields["job_id"], None)
        self.cut_short.discard(fields["job_id"])
        if job is None:
            return []
        if job.rule == "score":
            return [self._score(job)]
        if job.rule == "emm":
            return [self._emm(job)]
        if job.rule in TABLES:
            names = self.made.setdefault(TABLES[job.rule], [])
            names += [job.wildcards["study"]] if job.wildcards["study"] not in names else []
        elif job.rule == "report":
            self.made["report"] = []
        return []

    def _score(self, job: Job) -> str:
        """The line of a finished run."""
        index, score_key, run = self.course.index, job.wildcards["key"], job.run
        path = run_folder(index.results, "score", score_key, run.n, run.replicate) / RECORDS["score"]
        copies = count(records.read(path, ScoreRecord), index.setups["score", score_key].scoring.snapshot)
        self.refresh()
        self.told = min(self.told + 1, self.survey.done) if self.survey else 0
        line = f"{self._name(job)}: {100 * copies.ratio:.1f} % copies"
        return f"{line}  ({self.position()})" if self.survey and self.survey.runs else line

    def _emm(self, job: Job) -> str:
        """The line of a finished search, with the estimate from its own runs; the tables know the scatter of all."""
        index, emm_key = self.course.index, job.wildcards["key"]
        setup, scores = index.setups["emm", emm_key], index.scores(emm_key)
        counts = index.finished(emm_key)
        trail = replay(setup.search, index.sizes[emm_key], counts)
        scored = [{**records.read(scores.path(run), ScoreRecord), "n": run.n} for run in trail.runs]
        known = doubted(estimates.estimate(setup.search, trail, scores, index.sizes[emm_key], None), scored)
        name, runs = arms_served(index, "emm", emm_key, self.asked()), changes.counted(len(trail.runs), "run")
        if known.status == "undetermined":
            return f"{name}  search ended after {runs}; its EMM follows in the tables"
        answer = f"about {known.emm:.0f}" if known.emm else brief(known)
        return f"{name}  EMM {answer}, from {runs}"

    def _failed(self, fields: Mapping[str, Any]) -> list[str]:
        """Keep the error of a failed job for the end.  A job that was asked to end has not failed."""
        rule = self.rules.get(fields["rule_name"], fields["rule_name"])
        log = next(iter(fields.get("log") or ()), None)
        known = self.jobs.get(fields["jobid"])
        job = known or Job(rule, {}, Path(log) if log else None)
        last = [line for line in tail(job.log) if line.strip()] if job.log else []
        if last and last[-1].startswith(CUT_SHORT):
            self.cut_short.add(fields["jobid"])
            return []
        error = outcome(job.log) if job.log else ""
        if not error.startswith("error: "):
            error = f"error: {job.rule} ended without a message of its own"
            error += f": {last[-1]}" if last else ""
        name = self._name(job) + (f", log {job.log}" if job.log else "")
        first = error not in self.failures
        names = self.failures.setdefault(error, [])
        names += [name] if name not in names else []
        return [f"{self._name(job)}: failed; other jobs go on"] if first and not self.interrupted else []

    def _error(self, fields: Mapping[str, Any]) -> list[str]:
        """Snakemake's report of an exception, unless a job's own error line says it better."""
        text = str(fields.get("message_text") or "")
        kind = fields.get("exception")
        if kind in KNOWN_FAILURES or TELLS_NOTHING in text:
            return []
        if kind == "MissingRuleException" and (match := re.search(r"No rule to produce (\S+)", text)):
            names = [study.name for study in self.course.index.settings.studies]
            if lines := requests.unknown([match[1]], [*names, *self.rules]):
                return [f"error: {line}" for line in lines]
        return [text]

    def _name(self, job: Job) -> str:
        """A job for readers: the arms that it serves, what it does, and its run."""
        if "key" not in job.wildcards:
            return " ".join([job.rule, *job.wildcards.values()])
        stage = cast(Stage, "sample" if job.rule == "external" else job.rule)  # its output has the keys of `sample`
        arms = arms_served(self.course.index, stage, job.wildcards["key"], self.asked())
        what = "" if job.rule == "score" else f"{job.rule}, "
        if "n" not in job.wildcards:
            return f"{arms}  {job.rule}"
        return f"{arms}  {what}N = {job.run.n}, replicate {job.run.replicate}"

    def running(self) -> dict[Identity, Training]:
        """Progress of the trainings that run, for each score key that needs them."""
        found = {}
        for job in [*self.jobs.values()]:
            if job.rule == "train" and job.log and (progress := training(job.log)):
                found |= dict.fromkeys(scores_of(self.course.index, job.wildcards["key"], job.run), progress)
        return found

    def refresh(self) -> None:
        """Look at scores and logs again."""
        if not self.dryrun:
            self.survey = self.course.survey(self.asked(), self.running())

    def position(self) -> str:
        """How far the workflow is: "run 9 of about 22, about 3 minutes left"."""
        if self.survey is None:
            return ""
        if self.told >= self.survey.runs:
            return f"run {self.told}, the last one"
        left = remaining(self.survey.seconds)
        return f"run {self.told} of about {self.survey.runs}" + (f", {left}" if left else "")

    def bar(self, width: int) -> str:
        """The line at the end of a terminal of `width` characters; empty before the first job."""
        if self.survey is None or not self.survey.runs or self.dryrun:
            return ""
        full = int(BAR * self.survey.share)
        parts = [f"[{'#' * full}{'.' * (BAR - full)}] {int(100 * self.survey.share)} %"]
        parts.append(f"{self.survey.done} of about {self.survey.runs} runs")
        open_runs = self.survey.done < self.survey.runs
        parts += [left] if open_runs and (left := remaining(self.survey.seconds)) else []
        working = [job for job in [*self.jobs.values()] if job.rule in RUNS or job.rule == "emm"]
        if working:
            progress = training(working[0].log) if working[0].rule == "train" and working[0].log else None
            parts.append(self._name(working[0]) + (f": {100 * progress.share:.0f} %" if progress else ""))
        return "  ".join(parts)[: max(width - 1, 0)]

    def results(self) -> list[str]:
        """One line on tables, figures and the page that were made."""
        parts = [f"{what} of {', '.join(names)}" for what, names in self.made.items() if names]
        parts += ["report"] if "report" in self.made else []
        return [f"made: {'; '.join(parts)}"] if parts else []

    def last(self) -> list[str]:
        """The last lines of the workflow: how it ended, if not well; for a dry run, what would be done."""
        if self.dryrun:
            return self.plan()
        if self.interrupted or (self.cut_short and not self.failures):
            return [INTERRUPTED]
        lines = []
        for error, names in self.failures.items():
            more = f" and {len(names) - 1} more" if names[1:] else ""
            lines += [f"failed: {names[0]}{more}", error]
        return lines
