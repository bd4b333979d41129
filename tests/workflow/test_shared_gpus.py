"""Jobs of the real workflow on a machine with two made-up GPUs; stages compute on the CPU instead.

Everything else is real: Snakemake's resource, the locks, and the devices that each stage sees.
"""

import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from emmeter.machine import slots
from project import Project, fresh

# Stands for `python` on the made-up machine.  A stage notes the devices that it sees when it begins and ends, and uses
# the CPU for "cuda".  A training begins only with a second one, so that both certainly run at the same time.
PYTHON = """#!/bin/sh
case "$2" in *cuInit*) echo 8; exit ;; esac
module=$2
[ "$module" != emmeter.machine.warm ] || module=$3
case "$module" in emmeter.stages.train|emmeter.stages.sample|emmeter.stages.score) ;; *) exec {python} "$@" ;; esac
echo "begin $module $CUDA_VISIBLE_DEVICES" >> {log}
while [ "$module" = emmeter.stages.train ] && [ "$(grep -c "begin $module" {log})" -lt 2 ]; do sleep 0.1; done
for word in "$@"; do
    [ "$word" != cuda ] || word=cpu
    set -- "$@" "$word"
    shift
done
{python} "$@"
status=$?
echo "end $module $CUDA_VISIBLE_DEVICES" >> {log}
exit $status
"""
# Stands for `python` where no stage runs: a question for the number of GPUs is answered.
DRIVER = """#!/bin/sh
case "$2" in *cuInit*) echo 8; exit ;; esac
exec {python} "$@"
"""


@dataclass(frozen=True)
class Machine:
    """A project on the made-up machine."""

    project: Project
    gpus: list[str]
    log: Path

    @property
    def scores(self) -> list[Path]:
        files = (self.project.run_file("score", "labels", arm, "score.json") for arm in ("none", "random"))
        return [path.relative_to(self.project.folder) for path in files]


@pytest.fixture(autouse=True)
def _all_visible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let jobs see all GPUs that the driver of the machine reports."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    python = tmp_path / "driver" / "python"
    python.parent.mkdir()
    python.write_text(DRIVER.format(python=sys.executable))
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(Project, "process", _with_path(python.parent))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The runs of study `labels`, one for each of two arms, made and scored on two GPUs."""
    folder = tmp_path_factory.mktemp("machine")
    log, python = folder / "log", folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(PYTHON.format(python=sys.executable, log=log))
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    gpus = [f"GPU-{uuid.uuid4()}" for _ in range(2)]  # the locks are the user's own: nothing else may use these names
    project = fresh(folder / "project")
    project.change("execution", {"gpus": gpus})
    machine = Machine(project, gpus, log)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            patch.setattr(Project, "process", _with_path(python.parent))
            project.snakemake(*machine.scores, "--cores", 4)
        yield machine
    finally:
        for path in slots.default_folder().glob("GPU-*"):
            if path.name.startswith(tuple(gpus)):
                shutil.rmtree(path)


def _with_path(folder: Path):  # type: ignore[no-untyped-def]
    real = Project.process

    def process(project: Project):  # type: ignore[no-untyped-def]
        arguments = real(project)
        arguments["env"]["PATH"] = os.pathsep.join([str(folder), arguments["env"]["PATH"]])
        return arguments

    return process


def test_every_job_has_a_gpu_of_its_own(machine):
    notes = [line.split() for line in machine.log.read_text().splitlines()]
    assert [module for what, module, *_ in notes if what == "begin"].count("emmeter.stages.train") == 2
    assert {module for _, module, *_ in notes} == {
        "emmeter.stages.train",
        "emmeter.stages.sample",
        "emmeter.stages.score",
    }
    running: set[str] = set()
    for what, _, gpu in notes:
        assert gpu in machine.gpus  # exactly one
        if what == "begin":
            assert gpu not in running
            running.add(gpu)
        else:
            running.remove(gpu)
    trained = {gpu for what, module, gpu in notes if (what, module) == ("begin", "emmeter.stages.train")}
    assert trained == set(machine.gpus)  # two at a time, therefore on two GPUs


def test_the_log_names_the_gpu(machine):
    for path in machine.project.folder.glob("logs/train/*/*.log"):
        assert path.read_text().splitlines()[0] in [f"on GPU {gpu} (slot 1 of 1)" for gpu in machine.gpus]


def test_other_gpus_run_nothing_again(machine):
    machine.project.change("execution", {"gpus": 3, "jobs_per_gpu": 4})
    assert machine.project.plan(*machine.scores).jobs == {}
    machine.project.change("execution", {"device": "cpu"})
    assert machine.project.plan(*machine.scores).jobs == {}


# What is planned, without running it


def test_on_a_cpu_nothing_is_claimed(finished):
    assert "emmeter.stages.train" in finished.first_plan.output
    assert "emmeter.machine.slots" not in finished.first_plan.output + finished.output
    assert "gpu_slots" not in finished.first_plan.output + finished.output


def test_as_many_jobs_as_slots_unless_the_user_says_otherwise(empty):
    empty.change("execution", {"gpus": [0, 1], "jobs_per_gpu": 3})
    plan = empty.plan("labels")
    claim = "emmeter.machine.slots --devices 0,1 --jobs-per-gpu 3 --count 1 --"
    assert plan.output.count(f"{claim} python -m emmeter.machine.warm emmeter.stages.train") == 2
    assert plan.output.count("--device cuda") == 4  # of training and sampling: no job falls back to the CPU
    for arguments, limit in (((), 6), (("--resources", "gpu_slots=2"), 2)):
        output = empty.snakemake("labels", "--touch", "--logger-emmeter-plain", *arguments, check=False).stdout
        assert f'gpu_slots=Resource("gpu_slots", {limit})' in output


def test_a_training_of_several_gpus_claims_them_at_once(empty):
    empty.change("execution.device", "auto")
    empty.change("execution.gpus", 4)
    empty.change(["studies", "labels", "arms", "random", "training.gpus"], 2)
    output = empty.snakemake("labels", "--dry-run", "--printshellcmds").stdout
    assert output.count("--count 1 -- python -m emmeter.machine.warm emmeter.stages.train ") == 1
    assert len(re.findall("--count 2 -- python -m torch.distributed.run .*emmeter.stages.train ", output)) == 1
    assert output.count("--count 1 -- python -m emmeter.machine.warm emmeter.stages.sample ") == 2


def test_too_many_gpus_are_refused_before_anything_starts(empty):
    empty.change("execution.device", "auto")
    empty.change("execution.gpus", 2)
    empty.change("training.gpus", 4)
    done = empty.snakemake("labels", check=False)
    assert done.returncode != 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert line == "error: training.gpus = 4: must be at most 2, the GPUs of execution.gpus here"
    assert "Traceback" not in done.stdout
    assert not (empty.folder / "results").exists() and not (empty.folder / "logs").exists()


def test_hidden_gpus_are_refused_before_anything_starts(empty, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    empty.change("execution", {"gpus": [0, 1]})
    done = empty.snakemake("labels", check=False)
    assert done.returncode != 0
    line = "error: execution.gpus = ['0', '1']: CUDA_VISIBLE_DEVICES = '1' does not show them\n"
    assert line in done.stdout
    assert not (empty.folder / "results").exists()


def test_jobs_of_a_cluster_claim_nothing(empty):
    """They claim nothing where they are submitted, even if this machine has GPUs, nor where they run."""
    empty.change("execution", {"gpus": [0, 1]})
    empty.change("training.gpus", 4)  # more than the submitting machine has
    dry = ("labels", "--dry-run", "--printshellcmds")
    submitting = empty.snakemake(*dry, "--workflow-profile", "profiles/slurm").stdout
    assert submitting.count("emmeter.stages.train ") == 2
    assert "emmeter.machine.slots" not in submitting and "gpu_slots=1" not in submitting
    running = empty.snakemake(*dry, "--mode", "remote").stdout
    assert running.count("emmeter.stages.train ") == 2
    assert "emmeter.machine.slots" not in running
