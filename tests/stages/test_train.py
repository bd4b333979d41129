"""The train stage as a program: its outputs, kills, damaged and foreign states, one-line errors."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from emmeter.command import command
from emmeter.data.subset import Subset, save
from emmeter.files import checksums
from emmeter.files.tables import LOG_COLUMNS
from emmeter.settings.validation import read_setup
from emmeter.stages import train as train_stage
from emmeter.training import snapshots, state
from emmeter.training.trainer import build
from small_run import N, settings, subset_of


class Place:
    """The files of one run in a folder, and the command line that makes them."""

    def __init__(self, folder: Path, subset: Subset, state_seconds: float = 30, /, **changes: dict[str, Any]):
        self.state_seconds = state_seconds
        self.folder, self.state = folder, folder / "state" / "key" / "n24-r0"
        self.snapshots, self.log = folder / "out" / "snapshots.safetensors", folder / "out" / "training.csv"
        self.record = folder / "out" / "training.json"
        self.subset = folder / "subset.npz"
        save(self.subset, subset)
        self.settings = json.dumps(settings(**changes))

    def arguments(self) -> list[str]:
        options = ["--settings", self.settings, "--key", "abc", "--n", str(N), "--replicate", "0", "--device", "cpu"]
        for name in ("subset", "snapshots", "log", "record", "state"):
            options += [f"--{name}", str(getattr(self, name))]
        return [*options, "--state-seconds", str(self.state_seconds)]

    def process(self) -> subprocess.Popen[str]:
        command_line = [sys.executable, "-m", "emmeter.stages.train", *self.arguments()]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def outputs(self) -> list[Path]:
        return [path for path in (self.snapshots, self.log, self.record) if path.exists()]

    def resumed_at(self) -> int:
        return json.loads(self.record.read_text())["resumed_at_image"]

    def columns(self) -> list[dict[str, str]]:
        with open(self.log, newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def program(monkeypatch):
    """Run the stage's command line in this process: its exit status, 0 where it returns."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def call(place: Place) -> int:
        monkeypatch.setattr(sys, "argv", ["train", *place.arguments()])
        try:
            command(train_stage.main)
        except SystemExit as stopped:
            return int(stopped.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return 0

    return call


SHORT = {"training": {"duration": "40 images"}}


LONG = {"training": {"duration": "1200 images", "learning_rate": 1e-3}}  # 120 steps: at least a second


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A long run that nothing disturbed."""
    place = Place(tmp_path_factory.mktemp("undisturbed"), subset_of(), **LONG)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "argv", ["train", *place.arguments()])
    train_stage.main()
    patch.undo()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return place


def test_outputs_of_a_run(undisturbed):
    place = undisturbed
    saved = state.load(place.state)  # kept, until samples show that the outputs are safe
    assert saved is not None
    assert saved["step"] == 120
    assert sorted(path.name for path in place.snapshots.parent.iterdir()) == [
        "SHA256SUMS", "settings.yaml", "snapshots.safetensors", "training.csv", "training.json",
    ]  # fmt: skip
    rows = place.columns()
    assert tuple(rows[0]) == LOG_COLUMNS
    assert [int(row["images_seen"]) for row in rows] == list(range(120, 1201, 120))
    assert all(np.isfinite([float(row[name]) for name in LOG_COLUMNS]).all() for row in rows)
    with safe_open(place.snapshots, "pt") as file:
        description = json.loads(file.metadata()["run"])
        names = list(file.keys())
    assert description["key"] == "abc"
    assert description["shares"] == [0.3, 0.5, 1.0]
    assert description["ema_decays"] == [0.9, 0.5]
    assert description["images_seen"] == [360, 600, 1200]
    network = build(read_setup(json.loads(place.settings)), (1, 8, 8), 0).network
    assert sorted(names) == sorted(f"{s}/{d}/{n}" for s in range(3) for d in range(2) for n in network.state_dict())
    record = json.loads(place.record.read_text())
    assert record["images_trained"] == 1200
    assert record["parameters"] == sum(p.numel() for p in network.parameters())
    assert record["resumed_at_image"] == 0
    assert record["images_per_second"] > 0
    assert (record["n"], record["replicate"], record["key"]) == (N, 0, "abc")


def wait_for_progress(place: Place, running: subprocess.Popen[str]) -> None:
    """Until the running process has saved its state a second time."""
    first = None
    for _ in range(6000):
        if running.poll() is not None:
            pytest.fail(f"ended before it could be disturbed: {running.communicate()}")
        try:
            now = (place.state / "state.pt").stat().st_mtime_ns
        except FileNotFoundError:
            now = None
        if first is not None and now is not None and now != first:
            return
        first = first or now
        time.sleep(0.005)
    running.kill()
    pytest.fail("no state was saved within 30 s")


@pytest.mark.slow
def test_sigkill_and_resume(undisturbed, tmp_path):
    place = Place(tmp_path, subset_of(), 0.05, **LONG)
    running = place.process()
    wait_for_progress(place, running)
    running.send_signal(signal.SIGSTOP)
    second, third = place.process(), place.process()  # as of a Snakemake that was killed and started again
    for waiting in (second, third):
        assert waiting.stdout is not None
        assert f"process {running.pid} " in waiting.stdout.readline()
    third.terminate()
    assert third.wait(30) == 143
    assert not place.outputs()
    running.kill()
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    second.communicate(timeout=60)
    assert second.returncode == 0
    assert 0 < place.resumed_at() < 1200
    assert place.snapshots.read_bytes() == undisturbed.snapshots.read_bytes()
    assert place.log.read_bytes() == undisturbed.log.read_bytes()


def test_outputs_that_vanish_are_written_again_without_training(undisturbed, tmp_path, program):
    """Snakemake deletes them when it is killed and submits again a run that has meanwhile ended."""
    place = Place(tmp_path, subset_of(), **LONG)
    shutil.copytree(undisturbed.state, place.state)
    assert program(place) == 0
    assert place.resumed_at() == 1200
    assert place.snapshots.read_bytes() == undisturbed.snapshots.read_bytes()
    assert place.log.read_bytes() == undisturbed.log.read_bytes()
    assert json.loads(place.record.read_text())["images_per_second"] > 0


@pytest.fixture
def vanishing(undisturbed, tmp_path, monkeypatch):
    """A trained run whose outputs are removed so many times before the last of them is written."""

    def prepare(times: int) -> Place:
        place = Place(tmp_path, subset_of(), **LONG)
        shutil.copytree(undisturbed.state, place.state)
        join, left = snapshots.join, list(range(times))

        def disturbed(*arguments):
            join(*arguments)
            if left:
                left.pop()
                for path in (place.snapshots, place.log, place.record):
                    path.unlink()

        monkeypatch.setattr(snapshots, "join", disturbed)
        return place

    return prepare


def test_outputs_that_vanish_before_the_last_is_written(undisturbed, program, vanishing):
    """A Snakemake that submits this run again deletes them before its job waits for this one."""
    place = vanishing(1)
    assert program(place) == 0
    assert place.snapshots.read_bytes() == undisturbed.snapshots.read_bytes()
    assert place.log.read_bytes() == undisturbed.log.read_bytes()
    checksums.check([place.snapshots, place.log, place.record])


def test_outputs_that_vanish_again_and_again(program, vanishing, capsys):
    """Nobody does that; where somebody does, it ends."""
    assert program(vanishing(train_stage.ATTEMPTS)) == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.slow
def test_sigterm_and_resume(undisturbed, tmp_path, program):
    place = Place(tmp_path, subset_of(), 0.05, **LONG)
    running = place.process()
    wait_for_progress(place, running)
    running.terminate()
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 143
    assert errors.splitlines() == ["interrupted: state saved; the same command resumes"]
    assert not place.outputs()
    saved = state.load(place.state)
    assert saved is not None
    assert program(place) == 0
    assert place.resumed_at() == 10 * saved["step"]
    assert place.snapshots.read_bytes() == undisturbed.snapshots.read_bytes()
    assert place.log.read_bytes() == undisturbed.log.read_bytes()
    record = json.loads(place.record.read_text())
    assert record["seconds"] > saved["seconds"]  # the time of the process before counts


def half_way(place: Place, program) -> None:
    """Leave the state of a run that was told to stop after its first step."""
    original = train_stage.Progress.show

    def show(self):
        signal.raise_signal(signal.SIGTERM)
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_stage.Progress, "show", show)
        assert program(place) == 143
    assert (place.state / "state.pt").is_file()


def move_state(source: Place, target: Place) -> None:
    target.state.parent.mkdir(parents=True)
    source.state.rename(target.state)


def test_resuming_own_state(tmp_path, program):
    place = Place(tmp_path, subset_of(), **SHORT)
    half_way(place, program)
    assert program(place) == 0
    assert place.resumed_at() == 10


@pytest.mark.parametrize("kind", ["settings", "subset"])
def test_state_of_another_run_is_discarded(tmp_path, program, kind):
    folders = [tmp_path / name for name in ("other", "place", "clean")]
    changed = {"training": {"duration": "40 images", "learning_rate": 1e-3}} if kind == "settings" else SHORT
    subset = subset_of(labels=3) if kind == "subset" else subset_of()
    other = Place(folders[0], subset_of(), **changed)
    place, clean = (Place(folder, subset, **SHORT) for folder in folders[1:])
    half_way(other, program)
    move_state(other, place)
    assert program(place) == 0
    assert place.resumed_at() == 0
    assert program(clean) == 0
    assert place.snapshots.read_bytes() == clean.snapshots.read_bytes()


def test_truncated_state_starts_again(tmp_path, program, capsys):
    place, clean = (Place(tmp_path / name, subset_of(), **SHORT) for name in ("place", "clean"))
    half_way(place, program)
    path = place.state / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])
    assert program(place) == 0
    assert "damaged; starting this run again" in capsys.readouterr().out
    assert place.resumed_at() == 0
    assert program(clean) == 0
    assert place.snapshots.read_bytes() == clean.snapshots.read_bytes()


def one_error(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_infinite_loss_is_one_line_and_no_output(tmp_path, program, capsys):
    place = Place(tmp_path, subset_of(), training={"optimizer": "sgd", "learning_rate": 1e30})
    assert program(place) == 1
    line = one_error(capsys)
    assert "the loss became" in line
    assert "training.learning_rate = 1e+30" in line
    assert not place.outputs()


def test_overflow_on_the_last_step_is_an_error(tmp_path, program, capsys):
    """The loss of a step is computed before its update: the last update is never looked at."""
    training = {"optimizer": "sgd", "learning_rate": 1e38, "lr_ramp": "0 images", "duration": "10 images"}
    place = Place(tmp_path, subset_of(), training=training)
    assert program(place) == 1
    assert "training.learning_rate" in one_error(capsys)
    assert not place.outputs()


def test_missing_subset_is_one_line(tmp_path, program, capsys):
    place = Place(tmp_path, subset_of())
    place.subset.unlink()
    assert program(place) == 1
    assert str(place.subset) in one_error(capsys)


def test_wrong_settings_are_one_line(tmp_path, program, capsys):
    place = Place(tmp_path, subset_of(), training={"batchsize": 3})
    assert program(place) == 1
    assert "training.batchsize: is not a key of training; did you mean 'batch_size'?" in one_error(capsys)
