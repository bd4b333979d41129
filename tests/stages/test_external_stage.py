"""The external stage: a command of the user's trains and samples, survives kills, and never leaves half a result."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trainers
from emmeter.errors import StageError
from emmeter.files import records
from emmeter.files.layout import state_folder
from emmeter.files.npz import read_arrays
from emmeter.files.records import ExternalRecord, ScoreRecord
from emmeter.machine.process import EXIT_INTERRUPTED, Interrupted, Stop
from emmeter.settings import invocation
from emmeter.settings.keys import key, stage_settings
from emmeter.settings.validation import read_setup
from emmeter.stages.external import external, seed_of
from emmeter.stages.score import score
from emmeter.stages.subset import subset
from one_run import call, messages

N = 20
STEPS = " --steps 200"  # four seconds


class Run:
    """One run of a command, with the folders of the workflow."""

    def __init__(self, folder: Path, options: str = trainers.OPTIONS, text: str = trainers.COPIER, **more: Any):
        self.trainer = trainers.write(folder, text)
        content = {
            "data": {"source": "digits", "held_out": 8},
            "model": trainers.model(self.trainer, options, **more),
            "sampling": {"images": 24},
        }
        self.setup = invocation.resolved(read_setup(content))
        self.results = folder / "results"
        self.folder = self.results / "samples" / key("sample", self.setup) / f"n{N}" / "r0"
        self.subset = self.results / "subsets" / key("subset", self.setup) / f"n{N}" / "r0" / "subset.npz"
        self.state = state_folder(self.results, key("sample", self.setup), N, 0)
        subset(self.setup, n=N, replicate=0, output=self.subset)

    @property
    def samples(self) -> Path:
        return self.folder / "samples.npz"

    @property
    def places(self) -> dict[str, Any]:
        record = self.folder / "sampling.json"
        return {"n": N, "replicate": 0, "output": self.samples, "record": record, "state": self.state}

    def make(self, **more: Any) -> None:
        external(self.setup, self.subset, **self.places, **more)

    def images(self) -> np.ndarray:
        return read_arrays(self.samples, ("images",))["images"]

    def arguments(self) -> list[str]:
        settings = json.dumps(stage_settings("sample", self.setup))
        words = ["emmeter.stages.external", "--settings", settings, "--subset", str(self.subset)]
        return words + [word for name, value in self.places.items() for word in (f"--{name}", str(value))]

    def until_begun(self, step: int = 3) -> None:
        """Wait until the command has made some steps."""
        end, file = time.monotonic() + 20, self.state / "own" / "done"
        while not (file.is_file() and int(file.read_text() or 0) >= step) and time.monotonic() < end:
            time.sleep(0.01)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_images_of_a_command_become_samples(run):
    run.make()
    arrays = read_arrays(run.samples, ("images", "shares", "images_seen", "labels"))
    assert arrays["images"].shape == (1, 24, 1, 8, 8)
    assert arrays["shares"].tolist() == [1.0]
    record = records.read(run.folder / "sampling.json", ExternalRecord)
    assert record["seed"] == seed_of(run.setup, N, 0) < 2**31
    assert f"--seed {record['seed']}" in record["command"]
    assert (record["images_trained"], record["flops"], record["parameters"]) == (0, None, None)


def test_what_a_command_does_not_report_stays_absent_up_to_the_score(run):
    run.make()
    folder = run.results / "scores" / key("score", run.setup) / f"n{N}" / "r0"
    files = {name: folder / f"{name}.npz" for name in ("neighbours", "gallery")}
    paths = (run.subset, run.samples, [run.folder / "sampling.json"])
    score(run.setup, *paths, n=N, replicate=0, output=folder / "score.json", **files)
    record = records.read(folder / "score.json", ScoreRecord)
    assert 0 < record["snapshots"][0]["mean_distance"] < (record.get("held_out_distance") or 0.0)
    cost = record["cost"]
    assert cost["flops"] is None
    assert cost["images_trained"] == 0
    assert cost["seconds"] > 0
    assert not run.state.exists()  # its images have served


def test_seeds_differ_between_runs_and_configurations(run):
    other = run.setup.model_copy(update={"seed": 1})
    seeds = [seed_of(run.setup, 20, 0), seed_of(run.setup, 20, 1), seed_of(run.setup, 30, 0), seed_of(other, 20, 0)]
    assert len(set(seeds)) == 4


def test_bad_images_leave_no_output_and_one_line(tmp_path, capsys):
    run = Run(tmp_path, text=trainers.COPIER.replace(".astype(np.uint8)", " / 255"))
    assert call(*run.arguments()) == 1
    [line] = messages(capsys.readouterr().err)
    assert line.startswith("error: model.command: images in {samples} are float64 (24, 1, 8, 8): must be uint8")
    assert not run.samples.exists()


def test_a_failed_command_leaves_its_state_for_the_next_attempt(tmp_path):
    run = Run(tmp_path, text=trainers.COPIER.replace("with np.load", "raise SystemExit('no data')\nwith np.load"))
    with pytest.raises(StageError, match=r"has ended with status 1: begins at step 0 \| no data"):
        run.make()
    assert (run.state / "own").is_dir()
    assert not run.folder.exists()


def test_edited_files_are_noticed_before_the_command_runs(run):
    run.trainer.write_text("raise SystemExit('must not run')")
    with pytest.raises(StageError, match=r"model.files = '.*trainer.py': has changed since the workflow began"):
        run.make()


def test_files_edited_while_the_command_ran_are_noticed(tmp_path):
    text = trainers.COPIER + "\nopen(__file__, 'a').write('# edited')\n"
    run = Run(tmp_path, text=text)
    with pytest.raises(StageError, match="has changed while the command ran"):
        run.make()
    assert not run.samples.exists()


def test_a_run_that_was_asked_to_stop_resumes_with_the_same_images(tmp_path):
    whole = Run(tmp_path)
    whole.make()
    (tmp_path / "other").mkdir()
    run = Run(tmp_path / "other", trainers.OPTIONS + STEPS)
    stop = Stop()
    threading.Thread(target=lambda: (run.until_begun(), stop.set())).start()
    with pytest.raises(Interrupted):
        run.make(stop=stop)
    done = int((run.state / "own" / "done").read_text())
    assert 3 <= done < 200
    (run.state / "own" / "done").write_text("200")  # the rest would only take time
    run.make()
    assert np.array_equal(run.images(), whole.images())
    assert records.read(run.folder / "sampling.json", ExternalRecord)["attempts"] == 2


def test_a_killed_run_resumes_with_the_same_command(tmp_path):
    run = Run(tmp_path, trainers.OPTIONS + STEPS)
    job = subprocess.Popen([sys.executable, "-m", *run.arguments()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    run.until_begun()
    job.send_signal(signal.SIGKILL)
    job.wait()
    done = int((run.state / "own" / "done").read_text())
    assert 3 <= done < 200
    assert not run.folder.exists()
    (run.state / "own" / "done").write_text("199")
    run.make()
    assert run.images().shape == (1, 24, 1, 8, 8)


def test_a_job_that_receives_sigterm_ends_with_its_status(tmp_path):
    run = Run(tmp_path, trainers.OPTIONS + STEPS)
    job = subprocess.Popen([sys.executable, "-m", *run.arguments()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    run.until_begun()
    job.terminate()
    output = job.communicate(timeout=30)[0].decode()
    assert job.returncode == EXIT_INTERRUPTED
    assert output.splitlines()[-1] == "interrupted: the same command goes on from its state"


def test_outputs_that_snakemake_has_deleted_are_written_again_without_training(run):
    run.make()
    before = run.samples.read_bytes()
    for path in run.folder.iterdir():
        path.unlink()
    run.trainer.unlink()  # it is not needed any more
    run.make()
    assert run.samples.read_bytes() == before


def test_two_jobs_do_not_work_on_the_same_run_at_once(tmp_path):
    run = Run(tmp_path, trainers.OPTIONS + " --steps 25")
    threads = [threading.Thread(target=run.make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert records.read(run.folder / "sampling.json", ExternalRecord)["attempts"] == 1


def test_braces_that_are_doubled_reach_the_command(tmp_path):
    run = Run(tmp_path, trainers.OPTIONS + " --emm {{5}}")
    with pytest.raises(StageError, match=r"invalid float value: '\{5\}'"):
        run.make()
