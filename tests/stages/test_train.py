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

from emmeter.data.subset import Subset, save
from emmeter.files import checksums, records
from emmeter.files.layout import FILES
from emmeter.files.records import TrainingRecord
from emmeter.files.tables import LOG_COLUMNS
from emmeter.settings.keys import key
from emmeter.stages import train as train_stage
from emmeter.training import snapshots, state
from emmeter.training.trainer import build
from one_run import Pipeline, call, messages
from small_run import N, settings, subset_of


def run_on(folder: Path, subset: Subset, state_seconds: float = 30, /, **changes: dict[str, Any]) -> Pipeline:
    """A run of 24 images whose subset is stored."""
    run = Pipeline(folder / "results", settings(**changes), N, state_seconds=state_seconds)
    save(run.file("subset"), subset)
    return run


def process(run: Pipeline) -> subprocess.Popen[str]:
    """Start the stage in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *run.arguments("train")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def record(run: Pipeline) -> TrainingRecord:
    return records.read(run.record("train"), TrainingRecord)


def outputs(run: Pipeline) -> list[Path]:
    return [*(run.file("train", name) for name in FILES["train"]), run.record("train")]


def assert_same_outputs(run: Pipeline, other: Pipeline) -> None:
    """Snapshots and log have the same bytes."""
    for name in FILES["train"]:
        assert run.file("train", name).read_bytes() == other.file("train", name).read_bytes()


SHORT = {"training": {"duration": "40 images"}}
LONG = {"training": {"duration": "1200 images", "learning_rate": 1e-3}}  # 120 steps: at least a second


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A long run that nothing disturbed."""
    run = run_on(tmp_path_factory.mktemp("undisturbed"), subset_of(), **LONG)
    assert run.call("train") == 0
    return run


def test_outputs_of_a_run(undisturbed):
    run = undisturbed
    saved = state.load(run.state)  # kept until samples show that the outputs are safe
    assert saved is not None
    assert saved["step"] == 120
    assert sorted(path.name for path in run.folder("train").iterdir()) == [
        "SHA256SUMS", "settings.yaml", "snapshots.safetensors", "training.csv", "training.json",
    ]  # fmt: skip
    with open(run.file("train", "training.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == LOG_COLUMNS
    assert [int(row["images_seen"]) for row in rows] == list(range(120, 1201, 120))
    assert all(np.isfinite([float(row[name]) for name in LOG_COLUMNS]).all() for row in rows)
    with safe_open(run.file("train"), "pt") as file:
        description = json.loads(file.metadata()["run"])
        names = list(file.keys())
    assert description["key"] == key("train", run.setup)
    assert description["shares"] == [0.3, 0.5, 1.0]
    assert description["ema_decays"] == [0.9, 0.5]
    assert description["images_seen"] == [360, 600, 1200]
    network = build(run.setup, (1, 8, 8), 0).network
    assert sorted(names) == sorted(f"{s}/{d}/{n}" for s in range(3) for d in range(2) for n in network.state_dict())
    content = record(run)
    assert content["images_trained"] == 1200
    assert content["parameters"] == sum(p.numel() for p in network.parameters())
    assert content["resumed_at_image"] == 0
    assert content["images_per_second"] > 0
    assert (content["n"], content["replicate"], content["key"]) == (N, 0, key("train", run.setup))


def wait_for_progress(run: Pipeline, running: subprocess.Popen[str]) -> None:
    """Wait until the running process has saved its state a second time."""
    first = None
    for _ in range(6000):
        if running.poll() is not None:
            pytest.fail(f"ended before it could be disturbed: {running.communicate()}")
        try:
            now = (run.state / "state.pt").stat().st_mtime_ns
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
    run = run_on(tmp_path, subset_of(), 0.05, **LONG)
    running = process(run)
    wait_for_progress(run, running)
    running.send_signal(signal.SIGSTOP)
    second, third = process(run), process(run)  # as if Snakemake had been killed and started again
    for waiting in (second, third):
        assert waiting.stdout is not None
        assert f"process {running.pid} " in waiting.stdout.readline()
    third.terminate()
    assert third.wait(30) == 143
    assert not run.folder("train").exists()
    running.kill()
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    second.communicate(timeout=60)
    assert second.returncode == 0
    assert 0 < record(run)["resumed_at_image"] < 1200
    assert_same_outputs(run, undisturbed)


def test_outputs_that_vanish_are_written_again_without_training(undisturbed, tmp_path):
    """A killed Snakemake submits the run again, which has ended meanwhile, and deletes its outputs."""
    run = run_on(tmp_path, subset_of(), **LONG)
    shutil.copytree(undisturbed.state, run.state)
    assert run.call("train") == 0
    assert record(run)["resumed_at_image"] == 1200
    assert_same_outputs(run, undisturbed)
    assert record(run)["images_per_second"] > 0


@pytest.fixture
def vanishing(undisturbed, tmp_path, monkeypatch):
    """A trained run whose outputs are removed a given number of times before the last of them is written."""

    def prepare(times: int) -> Pipeline:
        run = run_on(tmp_path, subset_of(), **LONG)
        shutil.copytree(undisturbed.state, run.state)
        join, left = snapshots.join, list(range(times))

        def disturbed(*arguments):
            join(*arguments)
            if left:
                left.pop()
                for path in outputs(run):
                    path.unlink()

        monkeypatch.setattr(snapshots, "join", disturbed)
        return run

    return prepare


def test_outputs_that_vanish_before_the_last_is_written(undisturbed, vanishing):
    """A Snakemake that submits this run again deletes them before its job waits for this one."""
    run = vanishing(1)
    assert run.call("train") == 0
    assert_same_outputs(run, undisturbed)
    checksums.check(outputs(run))


def test_outputs_that_vanish_again_and_again(vanishing, capsys):
    """The stage gives up after some attempts."""
    assert vanishing(train_stage.ATTEMPTS).call("train") == 1
    assert "No such file" in capsys.readouterr().err


@pytest.mark.slow
def test_sigterm_and_resume(undisturbed, tmp_path):
    run = run_on(tmp_path, subset_of(), 0.05, **LONG)
    running = process(run)
    wait_for_progress(run, running)
    running.terminate()
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 143
    assert messages(errors) == ["interrupted: state saved; the same command resumes"]
    assert not run.folder("train").exists()
    saved = state.load(run.state)
    assert saved is not None
    assert run.call("train") == 0
    assert record(run)["resumed_at_image"] == 10 * saved["step"]
    assert_same_outputs(run, undisturbed)
    content = record(run)
    assert content["seconds"] > saved["seconds"]  # the time of the earlier process counts


def half_way(run: Pipeline) -> None:
    """Leave the state of a run that got SIGTERM after its first step."""
    original = train_stage.Progress.show

    def show(self):
        signal.raise_signal(signal.SIGTERM)
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_stage.Progress, "show", show)
        assert run.call("train") == 143
    assert (run.state / "state.pt").is_file()


def move_state(source: Pipeline, target: Pipeline) -> None:
    target.state.parent.mkdir(parents=True)
    source.state.rename(target.state)


def test_resuming_own_state(tmp_path):
    run = run_on(tmp_path, subset_of(), **SHORT)
    half_way(run)
    assert run.call("train") == 0
    assert record(run)["resumed_at_image"] == 10


@pytest.mark.parametrize("kind", ["settings", "subset"])
def test_state_of_another_run_is_discarded(tmp_path, kind):
    folders = [tmp_path / name for name in ("other", "run", "clean")]
    changed = {"training": {"duration": "40 images", "learning_rate": 1e-3}} if kind == "settings" else SHORT
    subset = subset_of(labels=3) if kind == "subset" else subset_of()
    other = run_on(folders[0], subset_of(), **changed)
    run, clean = (run_on(folder, subset, **SHORT) for folder in folders[1:])
    half_way(other)
    move_state(other, run)
    assert run.call("train") == 0
    assert record(run)["resumed_at_image"] == 0
    assert clean.call("train") == 0
    assert_same_outputs(run, clean)


def test_truncated_state_starts_again(tmp_path, capsys):
    run, clean = (run_on(tmp_path / name, subset_of(), **SHORT) for name in ("run", "clean"))
    half_way(run)
    path = run.state / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])
    assert run.call("train") == 0
    assert "damaged; starting this run again" in capsys.readouterr().out
    assert record(run)["resumed_at_image"] == 0
    assert clean.call("train") == 0
    assert_same_outputs(run, clean)


def one_error(capsys) -> str:
    lines = messages(capsys.readouterr().err)
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_infinite_loss_is_one_line_and_no_output(tmp_path, capsys):
    run = run_on(tmp_path, subset_of(), training={"optimizer": "sgd", "learning_rate": 1e30})
    assert run.call("train") == 1
    line = one_error(capsys)
    assert "the loss became" in line
    assert "training.learning_rate = 1e+30" in line
    assert not run.folder("train").exists()


def test_overflow_on_the_last_step_is_an_error(tmp_path, capsys):
    """The loss of a step is computed before its update, so the last update has no loss of a step."""
    training = {"optimizer": "sgd", "learning_rate": 1e38, "lr_ramp": "0 images", "duration": "10 images"}
    run = run_on(tmp_path, subset_of(), training=training)
    assert run.call("train") == 1
    assert "training.learning_rate" in one_error(capsys)
    assert not run.folder("train").exists()


def test_missing_subset_is_one_line(tmp_path, capsys):
    run = run_on(tmp_path, subset_of())
    run.file("subset").unlink()
    assert run.call("train") == 1
    assert str(run.file("subset")) in one_error(capsys)


def test_wrong_settings_are_one_line(tmp_path, capsys):
    run = run_on(tmp_path, subset_of(), **SHORT)
    module, *options = run.arguments("train")
    options[options.index("--settings") + 1] = json.dumps(settings(training={"batchsize": 3}))
    assert call(module, *options) == 1
    assert "training.batchsize: is not a key of training; did you mean 'batch_size'?" in one_error(capsys)
