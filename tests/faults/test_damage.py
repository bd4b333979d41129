"""Truncated files and flipped bits: each file is refused in one line that names it, or made again, and never used."""

import random
import shutil
import signal
import time

import pytest
import torch
from outcome import assert_equal, outcome

from emmeter.data.subset import load as load_subset
from emmeter.files.scores import Scores
from emmeter.measure.outcome import RunId
from emmeter.settings.keys import key
from emmeter.training import state
from emmeter.training.snapshots import intact
from emmeter.training.trainer import start
from forked import start as start_stage
from one_run import Pipeline, messages

# Each stage with a file that it reads: (reading stage, writing stage, file).
READ = [
    ("train", "subset", "subset.npz"),
    ("sample", "subset", "subset.npz"),
    ("sample", "train", "snapshots.safetensors"),
    ("score", "subset", "subset.npz"),
    ("score", "sample", "samples.npz"),
    ("score", "train", "training.json"),
    ("score", "sample", "sampling.json"),
    ("emm", "score", "score.json"),
    ("emm", "score", "gallery.npz"),
    ("study", "emm", "emm.json"),
    ("figures", "emm", "gallery.npz"),
]


def damages(content: bytes, moments: random.Random, flips: int) -> list[bytes]:
    """The content emptied, cut at random, lengthened, and with one random bit flipped, `flips` times."""
    versions = [b"", content[: moments.randrange(1, len(content))], content[:-1], content + b"\n"]
    for position in (moments.randrange(len(content)) for _ in range(flips)):
        flipped = bytes([content[position] ^ 1 << moments.randrange(8)])
        versions.append(content[:position] + flipped + content[position + 1 :])
    return versions


@pytest.mark.parametrize(("stage", "before_it", "name"), READ, ids=[f"{s} reads {n}" for s, _, n in READ])
def test_a_damaged_input_is_refused(clean, before, faults, capsys, stage, before_it, name):
    pipeline = before(stage)
    path = pipeline.file(before_it, name)
    whole, files = path.read_bytes(), outcome(pipeline.results).keys()
    for damaged in damages(whole, random.Random(f"{stage} {name}"), 5):
        with faults.one("damaged input"):
            path.write_bytes(damaged)
            assert pipeline.call(stage) == 1
            (line,) = messages(capsys.readouterr().err)
            assert line.startswith(f"error: {path}: "), line
            path.write_bytes(whole)
            assert outcome(pipeline.results).keys() == files
    if stage != "train":  # test_kills trains the run to the end
        assert pipeline.call(stage) == 0
        assert_equal(pipeline, stage, clean[1])


def test_a_damaged_file_is_made_again_once_it_is_deleted(clean, before, faults, capsys):
    with faults.one("damaged input"):
        pipeline = before("emm")
        for stage in ("sample", "score"):
            path = pipeline.file(stage)
            path.write_bytes(path.read_bytes()[:-10])
        assert pipeline.call("score") == 1
        assert f"{pipeline.file('sample')}: has changed" in capsys.readouterr().err
        for stage in ("sample", "score"):
            pipeline.file(stage).unlink()
            assert pipeline.call(stage) == 0
            assert_equal(pipeline, stage, clean[1])


def test_a_damaged_score_counts_as_a_run_that_was_not_made(before, faults):
    pipeline = before("emm")
    scores = Scores(pipeline.results, key("score", pipeline.setup), "last")
    path, run = pipeline.record("score"), RunId(pipeline.n, pipeline.replicate)
    assert run in scores
    whole = path.read_bytes()
    changed = whole.replace(b'"memorized": 0', b'"memorized": 9')  # valid JSON, like the true score
    assert changed != whole
    for damaged in [*damages(whole, random.Random(0), 20), changed]:
        with faults.one("damaged score"):
            path.write_bytes(damaged)
            assert run not in scores


@pytest.fixture(scope="module")
def interrupted(clean, tmp_path_factory):
    """A training that was stopped after its first snapshot."""
    pipeline = Pipeline(tmp_path_factory.mktemp("interrupted") / "results")
    subset = pipeline.folder("subset")
    shutil.copytree(clean[0].folder("subset"), subset)
    training = start_stage(pipeline.results.parent / "log", pipeline.arguments("train"))
    while not (pipeline.state / "snapshot-0.safetensors").exists():
        assert training.process.exitcode is None
        time.sleep(0.001)
    training.process.terminate()
    ended = training.end()
    assert ended.status == 128 + signal.SIGTERM, ended.output
    return pipeline


@pytest.fixture
def resumable(interrupted, tmp_path):
    shutil.copytree(interrupted.results, tmp_path / "results")
    return Pipeline(tmp_path / "results")


def resumed_at(pipeline: Pipeline) -> int:
    """The step at which the training would continue."""
    subset = load_subset(pipeline.file("subset"))
    trainer = start(pipeline.setup, subset, pipeline.n, pipeline.replicate, torch.device("cpu"), pipeline.state)
    return trainer.step


@pytest.mark.parametrize("name", ["state.pt", "snapshot-0.safetensors"])
def test_a_damaged_state_starts_the_run_again(clean, resumable, faults, capsys, tmp_path, name):
    path = resumable.state / name
    whole = path.read_bytes()
    assert resumed_at(resumable) >= 10  # a quarter of the 40 steps
    for damaged in damages(whole, random.Random(name), 20):
        with faults.one("damaged state"):
            path.write_bytes(damaged)
            assert resumed_at(resumable) == 0
            assert "starting this run again" in capsys.readouterr().out
    if name != state.STATE:
        path.unlink()
        assert resumed_at(resumable) == 0
        path.write_bytes(damaged)
    ended = start_stage(tmp_path / "log", resumable.arguments("train")).end()
    assert ended.status == 0, ended.output
    assert_equal(resumable, "train", clean[1])


def test_an_undamaged_state_is_continued(clean, resumable, tmp_path):
    ended = start_stage(tmp_path / "log", resumable.arguments("train")).end()
    assert ended.status == 0, ended.output
    assert_equal(resumable, "train", clean[1])


def test_a_snapshot_damaged_while_training_is_not_joined(resumable, faults):
    saved = state.load(resumable.state)
    assert saved is not None and intact(resumable.state, saved["kept"])
    with faults.one("damaged state"):
        path = resumable.state / "snapshot-0.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        assert not intact(resumable.state, saved["kept"])
