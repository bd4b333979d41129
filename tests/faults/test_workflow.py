"""The whole Snakefile under faults: killed, started twice, wrong dates of files, images changed in place."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from outcome import outcome
from PIL import Image

from emmeter.files import layout
from emmeter.pipeline.index import index_of
from emmeter.settings import configuration, keys
from one_run import CONTENT
from project import fresh

pytestmark = pytest.mark.exhaustive

KILLS = 3
STUDY = "denoiser"  # of tests/project.py: one trained arm and the theoretical optimum


def study_files(results: Path) -> dict[str, object]:
    """The files of the study's own folder, without the page that is made only of a study that was asked for alone."""
    files = {name: content for name, content in outcome(results).items() if name.startswith(f"digits/{STUDY}/")}
    return {name: content for name, content in files.items() if not name.endswith("/report.html")}


def test_killed_and_started_twice(finished, faults, tmp_path):
    project = fresh(tmp_path / "project")
    moments, locks = random.Random("kills of Snakemake"), project.folder / ".snakemake" / "locks"
    twice = killed = 0
    while killed < KILLS:
        with open(tmp_path / "output", "w") as output:
            process = subprocess.Popen(
                project.command(STUDY, "--logger-emmeter-plain"),
                **project.process(),
                stdout=output,
                start_new_session=True,
            )
            while process.poll() is None and not (locks.is_dir() and any(locks.iterdir())):
                time.sleep(0.01)
            if not twice:
                with faults.one("two Snakemakes at once"):
                    second = project.snakemake(STUDY, check=False)
                    twice += 1
                    assert process.poll() is None
                    assert second.returncode != 0 and "--unlock" in second.stdout
                    assert "Traceback" not in second.stdout
            jobs = moments.randint(0, 3)  # counted in jobs, not in seconds, so that no machine is too fast
            while process.poll() is None and (tmp_path / "output").read_text().count("Finished jobid") < jobs:
                time.sleep(0.01)
            try:
                process.wait(moments.uniform(0, 1))
                break  # it had ended before the kill
            except subprocess.TimeoutExpired:
                pass
            with faults.one("Snakemake killed"):
                os.killpg(process.pid, signal.SIGKILL)  # with its jobs, as when a node is lost
                process.wait()
                killed += 1
                project.snakemake("--unlock")
    assert killed
    project.snakemake(STUDY)
    ours, theirs = project.folder / "results", finished.project.folder / "results"
    assert study_files(ours) == study_files(theirs)
    files, expected = outcome(ours), outcome(theirs)
    runs = {name for name in files if name.split("/")[0] in layout.RUN_FOLDERS.values()}
    assert {name: files[name] for name in runs} == {name: expected[name] for name in runs}
    assert not (ours / "state").exists() and list(ours.rglob(".*")) == []


@pytest.mark.parametrize("days", [-20_000, 1, 3650])
def test_dates_rerun_nothing(project, faults, days):
    with faults.one("clock"):
        inputs = [project.folder / "own.npz", *(project.folder / "results").rglob("subset.npz")]
        for path in inputs:  # as if written while the clock was wrong
            os.utime(path, (time.time() + 86_400 * days,) * 2)
        plan = project.plan()
        assert plan.jobs == {}


def test_an_image_changed_in_place_is_noticed(faults, tmp_path):
    folder = tmp_path / "images"
    for number in range(40):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(path)
        os.utime(path, (1e9 + number,) * 2)
    content = CONTENT | {"data": {"source": f"folder:{folder}"}, "studies": {"own": {"arms": {"one": {}}}}}

    def signature() -> str:
        index = index_of(configuration.read(content), tmp_path / "results")
        return index.data_signature(keys.key("subset", index.settings.studies[0].arms[0].setup))

    seen = {signature()}
    with faults.one("changed data"):
        Image.fromarray(np.full((8, 8), 99, np.uint8)).save(folder / "class0" / "4.png")
        assert signature() not in seen
        seen.add(signature())
    with faults.one("changed data"):
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "class0" / "6.png")
        os.utime(folder / "class0" / "6.png", (1e9, 1e9))  # an older file replaces it
        assert signature() not in seen
        seen.add(signature())
    with faults.one("changed data"):
        (folder / "class0" / "6.png").unlink()
        assert signature() not in seen
    with faults.one("changed data"):  # files that are not images
        before = signature()
        (folder / ".DS_Store").write_text("")
        (folder / "class1" / "notes.txt").write_text("")
        assert signature() == before
