"""The course of a workflow: runs done of about how many, the share of the work, and the time left."""

from pathlib import Path

import pytest

from emmeter.files import checksums
from emmeter.files.layout import run_folder
from emmeter.files.writing import write_json
from emmeter.measure.outcome import RunId
from emmeter.pipeline.course import Course, Training, outcome, remaining, training
from emmeter.pipeline.index import Index, index_of
from emmeter.settings.configuration import read
from emmeter.settings.keys import key

CONTENT = {
    "data": {"source": "digits", "held_out": 0},
    "network": {"channels": 8, "multipliers": [1, 1], "blocks": 1, "attention": []},
    "training": {"duration": "3200 images", "batch_size": 32},
    "search": {"n_min": 10, "n_max": 640, "start": 40},
    "studies": {
        "one": {"arms": {"a": {}, "b": {"training.learning_rate": 0.01}}},
        "two": {"arms": {"a": {}, "far": {"seed": 1}}},
    },
    "run": ["one"],
}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return index_of(read(CONTENT), tmp_path / "results")


def score(path: Path, memorized: int, seconds: float = 30.0) -> None:
    """Write the score of a run that took `seconds`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"snapshots": [{"memorized": memorized, "images": 250}], "cost": {"seconds": seconds}})
    checksums.record(path)


def finish(index: Index, study: str, memorized: int = 225, runs: int = 10_000) -> int:
    """Score the next runs of a study, at most `runs`, as often as its searches ask; return their number."""
    done = 0
    while done < runs and (paths := index.pending([study])):
        for path in dict.fromkeys(paths):
            if done < runs:
                score(path, memorized)
                done += 1
    return done


def test_without_results_only_the_number_of_runs_is_known(index):
    survey = Course(index).survey(["one"])
    assert (survey.done, survey.share, survey.seconds) == (0, 0.0, None)
    assert survey.runs > 8 and list(survey.open_arms) == ["one/a", "one/b"]


def test_runs_that_studies_share_count_once(index):
    course = Course(index)
    one, two, both = (course.survey(studies).runs for studies in (["one"], ["two"], ["one", "two"]))
    assert both == one + two / 2


def test_finished_studies_are_complete(index):
    made = finish(index, "one")
    survey = Course(index).survey(["one"])
    assert survey.done == survey.runs == made
    assert (survey.share, survey.seconds, list(survey.open_arms)) == (1.0, 0.0, [])


def test_time_left_follows_from_finished_runs_and_falls_with_more_jobs(index):
    finish(index, "one", runs=2)
    course = Course(index)
    survey = course.survey(["one"], now=0.0)
    left = survey.runs - survey.done
    assert survey.seconds == pytest.approx(32.0 * left)  # 30 s and 2 s of Snakemake for each
    course.jobs = 2
    shorter = course.survey(["one"], now=0.0).seconds
    assert shorter is not None and 16.0 * left <= shorter < 32.0 * left


def test_slow_runs_of_this_workflow_prolong_the_time_left(index):
    finish(index, "one", runs=2)
    course = Course(index)
    course.survey(["one"], now=0.0)
    finish(index, "one", runs=4)
    calm = Course(index).survey(["one"]).seconds
    late = course.survey(["one"], now=4 * 64.0).seconds  # twice as long as the records say
    assert calm and late == pytest.approx(2 * calm)


def test_the_share_never_falls(index):
    course, shares = Course(index), []
    while finish(index, "one", memorized=250 if len(shares) < 3 else 100, runs=1):
        shares.append(course.survey(["one"]).share)
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] == 1.0
    assert all(share < 1 for share in shares[:-1])


def test_a_running_training_counts_for_its_part(index):
    finish(index, "one", runs=1)
    course = Course(index)
    before = course.survey(["one"], now=0.0)
    missing = next(run for run in course.index.pending(["one"]))
    run = RunId(int(missing.parts[-3][1:]), int(missing.parts[-2][1:]))
    half = course.survey(["one"], {(missing.parts[-4], run): Training(0.5, None)}, now=0.0)
    assert half.share > before.share
    assert before.seconds is not None and half.seconds == pytest.approx(before.seconds - 16)


def test_damaged_scores_are_not_counted(index):
    finish(index, "one", runs=2)
    path = next((index.results / "scores").glob("*/*/*/score.json"))
    path.write_text("{}")
    assert Course(index).survey(["one"]).done == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b: N = 10, replicate 0\ntrain: 3200 images, batch 32, key 1\n", Training(0.0, None)),
        ("train: 3200 images, batch 32, key 1, resumed at 800 images\n", Training(0.25, None)),
        ("train: 3200 images\n1600/3200 images, 211 images/s, 17 s left, loss 65.66\n", Training(0.5, 17.0)),
        ("1600/3200 images, 211 images/s, 17 s left, loss 65.66\nend: 3200 images, after 1.0 s\n", None),
        ("1600/3200 images, 211 images/s, 17 s left, loss 65.66\nerror: no space\n", None),
        ("nothing of this\n", None),
    ],
)
def test_progress_of_a_training_is_read_from_its_log(tmp_path, text, expected):
    (tmp_path / "log").write_text(text)
    assert training(tmp_path / "log") == expected
    assert training(tmp_path / "none") is None


def test_the_outcome_is_the_last_line_that_tells_one(tmp_path):
    (tmp_path / "log").write_text("error: first\nend: 3 images, after 1.0 s\nterminated\n")
    assert outcome(tmp_path / "log") == "end: 3 images, after 1.0 s"
    assert outcome(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (20.0, "less than a minute left"),
        (61.0, "about 1 minute left"),
        (200.0, "about 3 minutes left"),
        (4 * 3600.0, "about 4 hours left"),
    ],
)
def test_time_left_in_words(seconds, text):
    assert remaining(seconds) == text


def test_replays_of_a_course_are_its_own(index):
    finish(index, "one")
    Course(index).survey(["one"])
    assert run_folder(index.results, "score", key("score", index.study("one").arms[0].setup), 40, 0).is_dir()
    assert "two" not in index.emm_keys
