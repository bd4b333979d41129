"""What a user sees of real workflows: lines of finished runs, dry runs, an interruption, a failure, mistakes."""

import os
import re
import signal
import subprocess

import pytest

from processes import wait_until
from project import Project

RUN = re.compile(r"(\S+(?:, \S+)*(?: and \d+ more)?)  N = \d+, replicate \d: [\d.]+ % copies  \(run (\d+)[, ].*\)")


def test_every_finished_run_is_one_line_in_order(finished):
    lines = finished.output.splitlines()
    runs = [match for line in lines if (match := RUN.fullmatch(line))]
    scores = list((finished.project.folder / "results/scores").glob("*/*/*/score.json"))
    assert len(runs) == len(scores)
    assert [int(match[2]) for match in runs] == sorted(int(match[2]) for match in runs)
    assert {match[1].partition("/")[0] for match in runs} <= {"labels", "denoiser", "own"}
    assert any(re.fullmatch(r"denoiser/optimum  EMM ≥ 20, from \d+ runs?", line) for line in lines)
    assert "made: tables of labels, denoiser, own; figures of labels, denoiser, own; report" in map(ordered, lines)
    for noise in ("Select jobs", "Execute", "steps (", "localrule", "Building DAG", "Complete log"):
        assert noise not in finished.output
    assert "\r" not in finished.output  # no bar unless on a terminal


def ordered(line: str) -> str:
    """The line of results with its studies in the order of the configuration."""
    for names in re.findall(r"of ([\w, ]+)", line) if line.startswith("made: ") else []:
        studies = [name for name in ("labels", "denoiser", "own") if name in names.split(", ")]
        line = line.replace(f"of {names}", f"of {', '.join(studies)}")
    return line


def test_the_log_file_has_all_that_snakemake_says(finished):
    logs = (finished.project.folder / ".snakemake/log").iterdir()
    assert any("Select jobs to execute" in log.read_text() for log in logs)


def dry(project: Project, *arguments: object) -> list[str]:
    lines = project.snakemake(*arguments, "--dry-run").stdout.splitlines()
    return [line for line in lines if not line.startswith(("Using workflow specific profile", "data: ", "note: "))]


def test_dry_runs_answer_in_sentences(project):
    assert "Nothing to be done" in dry(project)[0]
    project.change("figures.dpi", 51)
    assert dry(project) == ["figures and the page will be made again"]
    project.change("search.epsilon", 0.2)
    assert [line.partition(" runs ")[0] for line in dry(project, "labels")] == [
        "labels: epsilon changed from 0.1 to 0.2: all 2",
        "tables, figures and the page of the study will be made again",
    ]


def test_a_first_dry_run_tells_how_much_is_to_be_made(empty):
    assert re.fullmatch(r"labels: 2 arms, about \d+ runs, none made yet", dry(empty, "labels")[0])
    assert "Job stats" in empty.snakemake("labels", "--dry-run", "--logger-emmeter-plain").stdout


def test_after_an_interruption_the_last_line_says_that_the_same_command_resumes(empty):
    empty.change("training.duration", "200000 images")
    with open(empty.folder / "output.txt", "w") as output:
        process = subprocess.Popen(empty.command("labels"), **empty.process(), stdout=output, start_new_session=True)
        wait_until(lambda: list(empty.folder.glob("results/state/*/*/lock")), 120, "a training")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) != 0  # also if a package is being built
    text = (empty.folder / "output.txt").read_text()
    assert text.splitlines()[-1] == (
        "interrupted: finished runs and the states of trainings are saved; the same command resumes"
    )
    assert "Traceback" not in text and "error" not in text.lower()


def test_the_error_of_a_failed_job_comes_last(empty):
    empty.change(["studies", "labels", "arms", "random", "training.learning_rate"], 1e30)
    done = empty.snakemake("labels", check=False)
    assert done.returncode != 0
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("error: the loss became ") and lines[-2].startswith(
        "failed: labels/random  train, N = "
    )
    assert any(RUN.fullmatch(line) and line.startswith("labels/none") for line in lines)
    assert "RuleException" not in done.stdout and "CalledProcessError" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["lables"], "error: lables: is not a study or a rule; did you mean 'labels'?"),
        (["--config", "search.epsilon=0.2"], "error: --config takes no dotted names; write "),
        (["--config", "seed=1", "labels"], "error: --config takes NAME=VALUE, each in quotes: "),
        (["--configfile", "config.yaml", "labels"], "error: --configfile 'labels': no such file; put targets before "),
        (["--config", "epsilon=0.2"], "error: epsilon: is a key of search; write search: {epsilon: 0.2}"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(empty, arguments, line):
    done = empty.snakemake(*arguments, "--dry-run", check=False)
    assert done.returncode != 0
    errors = [text for text in done.stdout.splitlines() if not text.startswith("Using workflow specific profile")]
    assert len(errors) == 1 and errors[0].startswith(line), errors
