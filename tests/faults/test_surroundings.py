"""Losses that are not finite, read-only results, jumping clocks, and changing data."""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
from outcome import assert_equal, assert_whole, outcome

from emmeter.diffusion import functional
from emmeter.pipeline.verify import verify
from emmeter.training import trainer
from forked import start
from one_run import CONTENT, STAGES, Pipeline, messages

# ---- NaN


def spoil_loss(step: int, value: float) -> None:
    """Multiply the loss of one step of this process by `value`, which is not finite."""
    steps, loss = count(), functional._loss

    def spoiled(*arguments):
        mean = loss(*arguments)
        return mean * value if next(steps) == step else mean

    functional._loss = spoiled


def spoil_weights(step: int) -> None:
    """Put a NaN into the weights after one step, which the loss of that step cannot show."""
    advance = trainer.Trainer.advance

    def spoiled(self):
        loss = advance(self)
        if self.step == step:
            self.parameters.values[0] = torch.nan
        return loss

    trainer.Trainer.advance = spoiled


SPOILED = [
    *(partial(spoil_loss, step, value) for step in (0, 15, 39) for value in (float("nan"), float("inf"))),
    *(partial(spoil_weights, step) for step in (1, 21, 39)),
]


@pytest.mark.parametrize("sabotage", SPOILED, ids=[f"{s.func.__name__}{s.args}" for s in SPOILED])
def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_nothing(clean, before, faults, tmp_path, sabotage):
    with faults.one("NaN in training"):
        pipeline = before("train")
        pipeline = Pipeline(pipeline.results, state_seconds=1e-9)  # saved after each step, also after a bad step
        files = outcome(pipeline.results)
        ended = start(tmp_path / "log", pipeline.arguments("train"), sabotage).end()
        assert ended.status == 1, ended.output
        (line,) = messages(ended.output)
        assert line.startswith("error: the loss became ") and "nothing of this run was kept" in line
        assert outcome(pipeline.results) == files
        assert not (pipeline.results / "state").exists()
        ended = start(tmp_path / "log", pipeline.arguments("train")).end()
        assert ended.status == 0, ended.output
        assert_equal(pipeline, "train", clean[1])


# ---- read-only results


def obey_permissions() -> None:
    """Give up the capabilities that let root write everywhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if os.geteuid() == 0 and libc.capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


@pytest.mark.parametrize("stage", [*STAGES, "study", "figures", "summary"])
def test_read_only_results_are_one_line(clean, before, faults, tmp_path, stage):
    with faults.one("read-only results"):
        pipeline = before(stage)
        log = tmp_path / "log"
        folders = [path for path in (pipeline.results, *pipeline.results.rglob("*")) if path.is_dir()]
        pipeline.results.mkdir(exist_ok=True)
        for folder in folders or [pipeline.results]:
            folder.chmod(0o555)
        try:
            ended = start(log, pipeline.arguments(stage), obey_permissions).end()
        finally:
            for folder in folders or [pipeline.results]:
                folder.chmod(0o755)
        assert ended.status == 1, ended.output
        (line,) = messages(ended.output)
        assert line.startswith("error: ") and "Permission denied: '" in line
        assert_whole(pipeline, clean[1])
        ended = start(log, pipeline.arguments(stage)).end()
        assert ended.status == 0, ended.output
        assert_equal(pipeline, stage, clean[1])


# ---- clocks


def clock_that_jumps() -> None:
    """Set the clock back by a day at each reading; the monotonic clock continues."""
    now = time.time()
    looks = count()
    time.time = lambda: now - 86_400 * next(looks)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("shift", [-40 * 365 * 86_400, 10 * 365 * 86_400], ids=["past", "future"])
def test_clocks_change_no_result(clean, before, faults, tmp_path, stage, shift):
    with faults.one("clock"):
        pipeline = before(stage)
        for path in pipeline.results.rglob("*"):
            os.utime(path, (time.time() + shift,) * 2)
        ended = start(tmp_path / "log", pipeline.arguments(stage), clock_that_jumps).end()
        assert ended.status == 0, ended.output
        assert_equal(pipeline, stage, clean[1])
        assert '"seconds": -' not in pipeline.record(stage).read_text()


# ---- data


def test_data_that_change_under_a_finished_run_are_noticed(faults, tmp_path, monkeypatch):
    with faults.one("changed data"):
        monkeypatch.chdir(tmp_path)
        images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
        np.savez("own.npz", images=images)
        content = CONTENT | {"data": {"source": "npz:own.npz", "held_out": 8, "balanced": False}}
        pipeline = Pipeline(tmp_path / "results", content)
        assert pipeline.call("subset") == 0
        assert verify(pipeline.results).mismatches == []
        images[7] += 1
        np.savez("own.npz", images=images)
        (line,) = verify(pipeline.results).mismatches
        assert line.startswith("data.source = 'npz:own.npz': has changed since ")


# ---- the command lines themselves


def test_a_command_line_resumes_after_sigkill(clean, faults, tmp_path):
    with faults.one("killed at a random moment"):
        pipeline = Pipeline(tmp_path / "results", state_seconds=0.01)
        shutil.copytree(clean[0].folder("subset"), pipeline.folder("subset"))
        command = [sys.executable, "-m", *pipeline.arguments("train")]
        process = subprocess.Popen(command)
        while not (pipeline.state / "state.pt").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -9
        assert subprocess.run(command).returncode == 0
        assert_equal(pipeline, "train", clean[1])
