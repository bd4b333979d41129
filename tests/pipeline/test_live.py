"""Lines of a running workflow from Snakemake's events, and the sentences of a dry run."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from snakemake_interface_logger_plugins.tests import MockOutputSettings
from test_course import CONTENT, finish, score

import snakemake_logger_plugin_emmeter as plugin
from emmeter.files.layout import run_folder
from emmeter.measure.outcome import RunId
from emmeter.pipeline import changes
from emmeter.pipeline.course import Course
from emmeter.pipeline.index import Index, index_of
from emmeter.pipeline.live import INTERRUPTED, STOPPING, Live
from emmeter.settings.configuration import read
from emmeter.settings.keys import key, stage_settings


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    monkeypatch.chdir(tmp_path)
    return index_of(read(CONTENT), Path("results"))


@pytest.fixture
def live(index: Index) -> Live:
    rules = {name: name for name in ("subset", "train", "sample", "score", "emm", "study", "figures", "report", "one")}
    return Live(Course(index), rules, lambda: ["one"])


def start(live: Live, job: int, rule: str, log: str = "", reason: str = "", **wildcards: object) -> None:
    fields = {"jobid": job, "rule_name": rule, "wildcards": {k: str(v) for k, v in wildcards.items()}}
    assert live.lines("job_info", fields | {"log": [log] if log else [], "reason": reason}, "") == []


def run_of(index: Index, arm: int = 0, n: int = 40) -> dict[str, object]:
    return {"key": key("score", index.study("one").arms[arm].setup), "n": n, "r": 0}


def test_a_finished_run_is_one_line_with_arm_size_outcome_and_position(index, live):
    assert live.lines("run_info", {"stats": {"score": 2, "total": 2}}, "") == [
        f"one: 2 arms, about {Course(index).survey(['one']).runs} runs, none made yet"
    ]
    start(live, 1, "score", **run_of(index))
    finish(index, "one", memorized=158, runs=1)
    (line,) = live.lines("job_finished", {"job_id": 1}, "")
    assert line.startswith("one/a  N = 40, replicate 0: 63.2 % copies  (run 1 of about ")
    assert "about" in line.partition("(")[2].partition(",")[2]
    assert live.lines("job_finished", {"job_id": 1}, "") == []


def test_arms_of_requested_studies_are_named(index):
    live = Live(Course(index), {"score": "score"}, lambda: ["two"])
    start(live, 1, "score", **run_of(index))
    finish(index, "two", memorized=158, runs=1)
    assert live.lines("job_finished", {"job_id": 1}, "")[0].startswith("two/a  N = 40")


def test_a_finished_search_is_one_line_with_its_answer(index, live):
    finish(index, "one", memorized=0)
    start(live, 5, "emm", key=key("emm", index.study("one").arms[1].setup))
    (line,) = live.lines("job_finished", {"job_id": 5}, "")
    assert line.startswith("one/b  EMM < 10, from ")


def test_a_search_that_its_own_runs_do_not_decide_points_to_the_tables(index, live):
    while paths := index.pending(["one"]):
        for path in paths:
            n, replicate = int(path.parents[1].name[1:]), int(path.parent.name[1:])
            first = 250 if n <= 40 else 0
            score(path, first if replicate == 0 else (120, 250)[replicate % 2])  # fresh runs show no trend
    start(live, 5, "emm", key=key("emm", index.study("one").arms[1].setup))
    (line,) = live.lines("job_finished", {"job_id": 5}, "")
    assert re.fullmatch(r"one/b  search ended after \d+ runs; its EMM follows in the tables", line)


def test_tables_figures_and_report_are_one_line(live):
    for job, rule in enumerate(("study", "figures")):
        start(live, job, rule, study="one")
        assert live.lines("job_finished", {"job_id": job}, "") == []
    start(live, 9, "report")
    assert live.lines("job_finished", {"job_id": 9}, "") == []
    assert live.results() == ["made: tables of one; figures of one; report"]
    assert live.last() == []


def failed(live: Live, job: int, text: str, n: int = 10) -> list[str]:
    log = Path(f"log-{job}")
    log.write_text(text)
    training = key("train", live.course.index.study("one").arms[1].setup)
    start(live, job, "train", str(log), key=training, n=n, r=0)
    return live.lines("job_error", {"jobid": job, "rule_name": "train", "log": [str(log)]}, "")


def test_the_error_line_of_a_failed_job_comes_last_and_once(live):
    text = "one/b: N = 10, replicate 0\nerror: the loss became nan\n"
    assert failed(live, 1, text) == ["one/b  train, N = 10, replicate 0: failed; other jobs go on"]
    assert failed(live, 2, text, n=20) == []
    noise = {"exception": "RuleException", "message_text": "RuleException: CalledProcessError ..."}
    assert live.lines("error", noise, "") == []
    last = {
        "exception": "WorkflowError",
        "message_text": "WorkflowError:\nAt least one job did not complete successfully.",
    }
    assert live.lines("error", last, "") == []
    assert live.last() == [
        "failed: one/b  train, N = 10, replicate 0, log log-1 and 1 more",
        "error: the loss became nan",
    ]


def test_a_job_that_dies_silently_is_reported_too(live):
    failed(live, 1, "one/b: N = 10, replicate 0\ntrain: 100 images\n")
    assert live.last()[-1] == "error: train ended without a message of its own: train: 100 images"


def test_an_interruption_is_no_failure(live):
    assert failed(live, 1, "interrupted: state saved; the same command resumes\n") == []
    assert failed(live, 2, "Traceback ...\nKeyboardInterrupt\n") == []
    assert live.lines(None, {}, "Terminating processes on user request, this might take some time.") == [STOPPING]
    assert live.last() == [INTERRUPTED]


def test_jobs_that_others_interrupted_are_no_failures_either_but_the_workflow_has_not_ended(index, live):
    assert failed(live, 1, "interrupted: state saved; the same command resumes\n") == []
    assert live.last() == [INTERRUPTED]
    finish(index, "one")
    start(live, 1, "train", **run_of(index))
    assert live.lines("job_finished", {"job_id": 1}, "") == []
    assert live.last() == []


def test_a_failed_job_that_is_tried_again_says_so(index, live):
    start(live, 1, "score", **run_of(index))
    assert live.lines(None, {}, "Trying to restart job 1.") == [
        "one/a  N = 40, replicate 0: failed, and is tried again"
    ]


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("ones", "error: ones: is not a study or a rule; did you mean 'one'?"),
        ("results/none.csv", "No rule to produce results/none.csv (if ...)"),
    ],
)
def test_unknown_targets_get_a_suggestion(live, target, line):
    text = f"No rule to produce {target} (if ...)"
    assert live.lines("error", {"exception": "MissingRuleException", "message_text": text}, text) == [line]


def test_the_bar_shows_share_runs_and_what_works_and_never_falls(index, live):
    assert live.bar(120) == ""
    live.lines("run_info", {"stats": {"score": 1}}, "")
    shares = []
    while finish(index, "one", memorized=250 if len(shares) < 3 else 100, runs=1):
        live.refresh()
        shares.append(int(live.bar(200).partition("] ")[2].partition(" %")[0]))
    assert shares == sorted(shares) and shares[-1] == 100
    start(live, 1, "score", **run_of(index))
    assert live.bar(200).endswith("runs  one/a  N = 40, replicate 0")
    assert len(live.bar(40)) == 39


def test_a_dry_run_tells_what_is_kept_and_what_is_made(index, live):
    made = finish(index, "one", memorized=225, runs=3)
    survey = Course(index).survey(["one"])
    assert changes.sentences(Course(index), ["one"]) == [
        f"one: {made} runs are kept, about {survey.runs - made} are to be made in all arms"
    ]
    finish(index, "one")
    assert changes.sentences(Course(index), ["one"]) == [
        f"one: all {Course(index).survey(['one']).done} runs are there"
    ]


def test_a_dry_run_tells_of_samples_that_another_criterion_scores_again(index):
    sample = run_folder(index.results, "sample", key("sample", index.study("one").arms[0].setup), 40, 0)
    sample.mkdir(parents=True)
    assert changes.sentences(Course(index), ["one"])[0].endswith("none made yet")  # samples have not been written
    (sample / "samples.npz").touch()
    (line,) = changes.sentences(Course(index), ["one"])
    assert re.fullmatch(r"one: 2 arms, about \d+ runs, none scored yet; samples of 1 run are there", line)


def test_a_dry_run_names_the_setting_that_has_changed(index, tmp_path):
    finish(index, "one")
    table = index.results / "experiment" / "one" / "emm.csv"
    table.parent.mkdir(parents=True)
    rows = ["arm,key"]
    for arm in index.study("one").arms:
        emm_key = key("emm", arm.setup)
        rows.append(f"{arm.name},{emm_key}")
        folder = index.results / "emm" / emm_key
        folder.mkdir(parents=True)
        (folder / "settings.yaml").write_text(str(stage_settings("emm", arm.setup)).replace("None", "null"))
    table.write_text("\n".join(rows) + "\n")
    assert changes.changes(index, "one") == []
    other = index_of(read(CONTENT | {"search": CONTENT["search"] | {"epsilon": 0.3}}), index.results)
    (line,) = changes.sentences(Course(other), ["one"])
    assert line.startswith("one: epsilon changed from 0.1 to 0.3: ")
    assert "are kept, about" in line or "are there" in line


@pytest.mark.parametrize(
    ("stats", "reasons", "lines"),
    [
        ({"figures": 1, "report": 1}, {}, ["figures and the page will be made again"]),
        ({"study": 2}, {}, ["tables will be made again"]),
        (
            {"score": 3, "study": 1},
            {"score": {"Code has changed since last execution"}},
            ["score: 3 jobs again, because its command has changed"],
        ),
        ({"train": 3}, {"train": {"Missing output files: a"}}, []),
    ],
)
def test_a_dry_run_tells_why_finished_work_is_made_again(stats, reasons, lines):
    assert changes.again(stats, reasons, 0) == lines


# ---- the plugin


class Settings(MockOutputSettings):
    def __init__(self, **changed: Any):
        super().__init__()
        self.printshellcmds = False
        vars(self).update({"quiet": {"reason", "host"}} | changed)


def handler(**changed: Any) -> plugin.LogHandler:
    return plugin.LogHandler(Settings(**changed), plugin.LogHandlerSettings())


def record(message: str, event: str | None = None, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("snakemake", logging.INFO, "", 0, message, None, None)
    vars(made).update({"event": event, **fields})
    return made


def test_noise_is_left_out_and_other_messages_stay(capsys):
    made = handler()
    for message in (
        "Building DAG of jobs...",
        "Select jobs to execute...",
        "Nothing to be done (all is there).",
        "odd",
    ):
        made.emit(record(message))
    made.close()
    assert capsys.readouterr().err == "Nothing to be done (all is there).\nodd\n"


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("ValueError: Config entry must start with a valid identifier.", "--config takes no dotted names"),
        ("ValueError: Config entries have to be defined as name=value pairs. (...)", "put targets before --config"),
        ("WorkflowError:\nConfig file is not valid JSON or YAML. ...", "names the line"),
        (
            "_load_configfile\nFileNotFoundError: [Errno 2] No such file or directory: 'width'",
            "--configfile 'width': no such file; put targets before the options",
        ),
        (
            "LockException:\nError: Directory cannot be locked. ...\n/home\nIf you ...",
            "`snakemake --unlock`",
        ),
    ],
)
def test_mistakes_on_snakemakes_command_line_get_one_line(capsys, message, hint):
    made = handler()
    made.emit(record(message, "error", exception="ValueError"))
    made.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and hint in line


class Broken:
    survey, dryrun, interrupted = None, False, False

    def lines(self, *_: object) -> list[str]:
        raise RuntimeError("a fault of the lines")

    def last(self) -> list[str]:
        raise RuntimeError("a fault of the end")


def test_after_an_error_of_the_lines_snakemakes_own_output_follows(capsys):
    made = handler()
    made.attach(Broken())
    made.emit(record("2 of 3 steps", "progress", done=2, total=3))
    made.emit(record("an ordinary message"))
    made.close()
    printed = capsys.readouterr().err
    assert "2 of 3 steps (67%) done" in printed and "an ordinary message" in printed


def test_snakemakes_own_output_is_an_option(capsys):
    for made in (
        plugin.LogHandler(Settings(), plugin.LogHandlerSettings(plain=True)),
        handler(printshellcmds=True),
        handler(quiet={"host"}, dryrun=True),
    ):
        made.emit(record("Building DAG of jobs..."))
        made.close()
        assert capsys.readouterr().err == "Building DAG of jobs...\n"


def test_quiet_runs_are_silent(capsys, live):
    made = handler(quiet={"all"})
    made.attach(live)
    made.emit(record("Nothing to be done"))
    made.close()
    assert capsys.readouterr().err == ""


def test_progress_of_running_trainings_is_that_of_their_scores(index, live):
    Path("log").write_text("train: 3200 images\n1600/3200 images, 211 images/s, 17 s left, loss 65.66\n")
    start(live, 1, "train", "log", key=key("train", index.study("one").arms[0].setup), n=40, r=0)
    ((score_key, run),) = live.running()
    assert (score_key, run) == (run_of(index)["key"], RunId(40, 0))
