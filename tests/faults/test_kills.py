"""SIGKILL at any moment of any stage: the same command ends with the bits of an undisturbed run, and no file is ever
half-written."""

import json
import os
import random
import signal
from functools import partial
from pathlib import Path

import pytest
from outcome import assert_equal, assert_whole, remove

from forked import start
from one_run import Pipeline

pytestmark = pytest.mark.exhaustive

# Kills at random moments of each stage, more than a hundred in total.
KILLS = {
    "subset": 12, "train": 45, "sample": 20, "score": 16, "emm": 8, "study": 8, "figures": 6, "summary": 4,
    "findings_table": 4,
}  # fmt: skip

STRIDES = {"train": 3, "figures": 5}  # slow stages with many files: every third and every fifth instant only


@pytest.mark.parametrize("stage", KILLS)
def test_killed_at_random_moments(clean, before, faults, tmp_path, stage):
    _, expected, seconds = clean
    pipeline = before(stage)
    moments = random.Random(f"kills of {stage}")
    arguments, log = pipeline.arguments(stage), tmp_path / "log"
    killed = resumed = 0
    while killed < KILLS[stage]:
        process = start(log, arguments)
        ended = process.wait(moments.uniform(0, seconds[stage])) or process.kill()
        if ended.status == -signal.SIGKILL:
            with faults.one("killed at a random moment"):
                assert_whole(pipeline, expected)
                killed += 1
            continue
        assert ended.status == 0, ended.output
        assert_equal(pipeline, stage, expected)
        resumed += stage == "train" and json.loads(pipeline.record("train").read_text())["resumed_at_image"] > 0
        remove(pipeline, stage)
    ended = start(log, arguments).end()
    assert ended.status == 0, ended.output
    assert_equal(pipeline, stage, expected)
    if stage == "train":
        resumed += json.loads(pipeline.record("train").read_text())["resumed_at_image"] > 0
        assert resumed  # at least one attempt continued from a state


def kill_at_write(moment: int) -> None:
    """Make this process kill itself at the `moment`-th instant of writing.

    Each file has two instants: just before it is renamed, when all is written but not yet visible, and just after.
    """
    passed = 0

    def instant() -> None:
        nonlocal passed
        passed += 1
        if passed > moment:
            os.kill(os.getpid(), signal.SIGKILL)

    replace = Path.replace

    def replace_between(self: Path, target: Path) -> Path:
        instant()
        replaced = replace(self, target)
        instant()
        return replaced

    Path.replace = replace_between  # type: ignore[method-assign]


@pytest.mark.parametrize("stage", KILLS)
def test_killed_at_every_write(clean, before, faults, tmp_path, stage):
    _, expected, _ = clean
    pipeline = before(stage)
    if stage == "train":
        pipeline = Pipeline(pipeline.results, state_seconds=1000)  # otherwise most writes would be states
    arguments, log = pipeline.arguments(stage), tmp_path / "log"
    for moment in range(0, 100, STRIDES.get(stage, 1)):
        ended = start(log, arguments, partial(kill_at_write, moment)).end()
        if ended.status != -signal.SIGKILL:
            assert ended.status == 0, ended.output
            break
        with faults.one("killed at a write"):
            assert_whole(pipeline, expected)
            ended = start(log, arguments).end()
            assert ended.status == 0, ended.output
            assert_equal(pipeline, stage, expected)
            remove(pipeline, stage)
    assert moment >= 4  # at least two instants of two files
    assert_equal(pipeline, stage, expected)
