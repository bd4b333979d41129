"""The default study at a tiny budget on a SLURM cluster of two nodes, undisturbed and through every fault of a cluster.

Trainings stop (SIGSTOP) after saving their state and are disturbed then, so that no machine is too slow or too fast
for a fault.  Every pipeline must end with the bits of the undisturbed one.
"""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cluster import NODES, PARTITION, Cluster, Job, Unavailable, install

from emmeter.pipeline.costs import START
from emmeter.training import state
from processes import wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]  # one process, one cluster

ROOT = Path(__file__).parents[2]
PATIENCE = 900  # seconds, for a machine that is busy with other work
ARMS = 4
DEVICE = "cpu" if torch.cuda.is_available() else "auto"
BATCH = 32
IMAGES = 4000  # per training, which takes some seconds
# One size, so one run per arm.  Everything else is as in the default study.
TINY: dict[str, Any] = {
    "network": {"channels": 8, "multipliers": [1, 1]},
    "training": {"duration": f"{IMAGES} images"},
    "sampling": {"images": 20, "steps": 3},
    "search": {"rule": "grid", "grid": [10]},
    # Jobs ask for a GPU, see SLURM's fake GPUs, and fall back to the CPU.  A real GPU would not give the same bits.
    "execution": {"device": DEVICE, "state_seconds": 0.5, "log_seconds": 1},
    "figures": {"dpi": 50},
}
# Code in the Python of each training.  While the file "hold" exists, the training stops after saving its first state.
# So no training ends before its fault.  When a file named after its run appears, the training grows by three gigabytes.
HOOKS = """\
import os, signal, sys, threading, time
from pathlib import Path

def stop():
    os.kill(os.getpid(), signal.SIGSTOP)

def saved(state):
    return state.stat().st_mtime_ns if state.exists() else None

def hold(state, request):
    before = saved(state)
    while saved(state) == before:
        time.sleep(0.01)
    if request.exists():
        stop()

def grow(request):
    while not request.exists():
        time.sleep(0.2)
    grown = bytearray(b"x") * 3_000_000_000
    stop()

def option(name):
    return sys.orig_argv[sys.orig_argv.index(name) + 1]

if "emmeter.stages.train" in sys.orig_argv:
    folder = Path(__file__).parent
    for hook, *arguments in (
        (hold, Path(option("--state"), "state.pt"), folder / "hold"),
        (grow, folder / ("grow-" + option("--key"))),
    ):
        threading.Thread(target=hook, args=arguments, daemon=True).start()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    try:
        install()
    except Unavailable as reason:
        pytest.skip(f"SLURM: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="emm-slurm-"))  # not pytest's folder, because a socket's path must be short
    running = Cluster(folder)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


@dataclass
class Training:
    """One run of the study, during its training and afterwards."""

    project: "Project"
    key: str

    @property
    def state(self) -> Path:
        return self.project.folder / "results/state" / self.key / "n10-r0"

    def saved(self) -> int:
        """Images trained at the last saved state."""
        saved = state.load(self.state)
        assert saved is not None
        return saved["step"] * BATCH

    def file(self, name: str) -> Path:
        return self.project.folder / "results/runs" / self.key / "n10/r0" / name

    @property
    def record(self) -> dict[str, Any]:
        return json.loads(self.file("training.json").read_text())

    @property
    def log(self) -> str:
        path = self.project.folder / "logs/train" / self.key / "n10-r0.log"
        return path.read_text() if path.exists() else ""

    def jobs(self) -> list[Job]:
        """Its jobs in this project, including ended ones, in order."""
        return [job for job in self.project.jobs() if (job.rule, job.wildcards) == ("train", f"{self.key}_10_0")]

    def signal(self, number: int) -> None:
        processes = self.project.cluster.processes("emmeter.stages.train", self.key)
        assert processes
        for process in processes:
            process.kill(number)

    def held(self) -> bool:
        """True if it has stopped itself."""
        processes = self.project.cluster.processes("emmeter.stages.train", self.key)
        return bool(processes) and all(process.stopped() for process in processes)

    def node(self) -> str:
        return self.jobs()[-1].node


class Project:
    """A copy of the project whose profile a user has edited for the cluster."""

    def __init__(self, folder: Path, cluster: Cluster, **execution: object):
        self.folder, self.cluster = folder, cluster
        self.first = max((int(job.number) for job in cluster.jobs(over=True)), default=0) + 1
        for name in ("workflow", "profiles", "envs", "config"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Snakefile", "config.yaml"):
            shutil.copy2(ROOT / name, folder / name)
        tiny = TINY | {"execution": TINY["execution"] | execution}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny))
        profile = folder / "profiles/slurm/config.yaml"
        text = profile.read_text()
        edits = {
            "slurm_partition: gpu": f"slurm_partition: {PARTITION}",
            "slurm_account: default": "",
            "mem_mb: 8000": "mem_mb: 2400",  # so that a training that exceeds it fits this machine
        }
        for line, edited in edits.items():
            assert text.count(line) == 1
            text = text.replace(line, edited)
        profile.write_text(text)
        self.hooks = folder / "hooks"
        self.hooks.mkdir()
        (self.hooks / "sitecustomize.py").write_text(HOOKS)

    def snakemake(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Snakemake as a user would, but with frequent checks of the jobs; output.txt holds its output."""
        often = ["--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"]
        options = ["--workflow-profile", "profiles/slurm", "--configfile", "tiny.yaml", *often]
        environment = self.cluster.environment
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.hooks)}
        with open(self.folder / "output.txt", "a") as output:
            return subprocess.Popen(
                ["snakemake", *arguments, *options],
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def finish(self, snakemake: subprocess.Popen[str]) -> None:
        assert snakemake.wait(2 * PATIENCE) == 0, self.output[-5000:]

    def jobs(self) -> list[Job]:
        """Jobs that this project has submitted."""
        return [job for job in self.cluster.jobs(over=True) if int(job.number) >= self.first]

    def held(self) -> tuple[subprocess.Popen[str], list[Training]]:
        """Start Snakemake; return it with all trainings, each stopped after saving its state."""
        (self.hooks / "hold").touch()
        snakemake = self.snakemake("results/digits/emm.csv")

        def all_held() -> list[Training]:
            assert snakemake.poll() is None, self.output[-5000:]
            states = sorted(self.folder.glob("results/state/*/n10-r0"))
            trainings = [Training(self, state.parent.name) for state in states]
            return trainings if len(trainings) == ARMS and all(training.held() for training in trainings) else []

        return snakemake, wait_until(all_held, PATIENCE, "all trainings have saved their state")

    def release(self) -> None:
        """Let later trainings run without a stop; stopped trainings continue after SIGCONT."""
        (self.hooks / "hold").unlink()

    def trainings(self) -> list[Training]:
        return [Training(self, path.name) for path in sorted((self.folder / "results/runs").iterdir())]

    def table(self, name: str) -> list[dict[str, str]]:
        """A table of the results, without the columns that differ between computations."""
        with open(self.folder / "results" / name, newline="") as file:
            return [{k: v for k, v in row.items() if k not in ("seconds",)} for row in csv.DictReader(file)]

    def check_nothing_is_left(self) -> None:
        """Neither jobs nor their processes nor training states are left."""
        assert [job for job in self.jobs() if not job.over] == []
        assert self.cluster.processes() == []
        assert not (self.folder / "results/state").exists()

    def check_same_results(self, undisturbed: "Project") -> None:
        for name in ("digits/emm.csv", "digits/conditioning/curves.csv"):
            assert self.table(name) == undisturbed.table(name)
        runs = {training.key: training for training in self.trainings()}
        for training in undisturbed.trainings():
            for name in ("snapshots.safetensors", "training.csv"):
                assert runs[training.key].file(name).read_bytes() == training.file(name).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The whole default target, made without faults."""
    project = Project(tmp_path_factory.mktemp("undisturbed") / "project", cluster, throughput=0.01)
    project.finish(project.snakemake())
    return project


def test_default_study_on_two_nodes(undisturbed: Project) -> None:
    project = undisturbed
    assert (project.folder / "results/digits/report.html").is_file()
    assert len(project.table("digits/emm.csv")) == ARMS
    project.check_nothing_is_left()
    # One job per training, one per run for its samples and score, and one per arm for the errors of its networks.
    # Everything else is made where Snakemake runs.
    jobs = project.jobs()
    assert sorted(job.rule for job in jobs) == sorted(["train", "evaluate_sample_score", "denoising"] * ARMS)
    assert {job.state for job in jobs} == {"COMPLETED"}
    assert {job.node for job in jobs} == set(NODES)
    for training in project.trainings():
        assert training.record["resumed_at_image"] == 0
        (job,) = training.jobs()
        submitted = project.cluster.job(job.number)
        seconds = START + training.record["flops"] / 0.01e9  # execution.throughput
        assert submitted["TimeLimit"] == limit(math.ceil(1.5 * seconds / 60))
        assert submitted["MinMemoryNode"] == "2400M"
        assert submitted.get("TresPerJob") == (None if DEVICE == "cpu" else "gres:gpu:1")
    assert list((project.folder / "logs/slurm").rglob("*.log")) == []  # only failed jobs have logs there


def limit(minutes: int) -> str:
    """A time limit as SLURM prints it."""
    days, minutes = divmod(minutes, 24 * 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{days}-" if days else "") + f"{hours:02}:{minutes:02}:00"


def test_lost_trainings_resume(cluster: Cluster, undisturbed: Project, tmp_path: Path) -> None:
    """SIGKILL of a training, scancel, the time limit, too much memory: each retry resumes from the saved state."""
    project = Project(tmp_path / "project", cluster)
    snakemake, trainings = project.held()
    project.release()
    saved = [training.saved() for training in trainings]
    killed, cancelled, late, grown = trainings

    killed.signal(signal.SIGKILL)
    cluster.run("scancel", cancelled.jobs()[0].number)
    cluster.run("scontrol", "update", f"JobId={late.jobs()[0].number}", "TimeLimit=1")
    signals = project.hooks / f"grow-{grown.key}"
    signals.touch()
    grown.signal(signal.SIGCONT)
    wait_until(lambda: grown.jobs()[0].over, PATIENCE, "the training that grew has been killed")
    signals.unlink()

    project.finish(snakemake)
    ended = {training.key: [job.state for job in training.jobs()] for training in trainings}
    assert ended[killed.key] == ["FAILED", "COMPLETED"]
    assert ended[cancelled.key] == ["CANCELLED", "COMPLETED"]
    assert ended[late.key] == ["TIMEOUT", "COMPLETED"]
    assert ended[grown.key] in (["FAILED", "COMPLETED"], ["OUT_OF_MEMORY", "COMPLETED"])
    for training, images in zip(trainings, saved, strict=True):
        assert 0 < images <= training.record["resumed_at_image"] <= IMAGES
        attempts = [cluster.job(job.number) for job in training.jobs()]
        assert [attempt["TimeLimit"] for attempt in attempts][1:] == ["02:00:00"]
        assert [attempt["MinMemoryNode"] for attempt in attempts] == ["2400M", "4800M"]
        # The messages of SLURM and Snakemake about the failed attempt are stored under the run's name.
        (log,) = (project.folder / "logs/slurm/rule_train" / f"{training.key}_10_0").iterdir()
        assert log.name == f"{training.jobs()[0].number}.log"
    assert (
        "memory limit"
        in (project.folder / "logs/slurm/rule_train" / f"{grown.key}_10_0")
        .joinpath(f"{grown.jobs()[0].number}.log")
        .read_text()
    )
    project.check_same_results(undisturbed)
    project.check_nothing_is_left()


def test_lost_node_restarted_controller_and_killed_snakemake(
    cluster: Cluster, undisturbed: Project, tmp_path: Path
) -> None:
    """Controller and node fail under Snakemake, which is then killed while its jobs run, and started again."""
    project = Project(tmp_path / "project", cluster)
    snakemake, trainings = project.held()
    saved = [training.saved() for training in trainings]
    first = {training.key: training.jobs()[0].number for training in trainings}

    cluster.end("controller")
    cluster.start_controller()
    wait_until(lambda: cluster.answers(), PATIENCE, "the controller answers")
    assert {job.state for job in project.jobs()} == {"RUNNING"}

    lost = [training for training in trainings if training.node() == NODES[0]]
    assert 0 < len(lost) < ARMS
    cluster.crash(NODES[0])
    for training in lost:
        wait_until(
            lambda run=training: run.jobs()[0].state == "PENDING",
            PATIENCE,
            "the lost job waits for a node",
        )
        cluster.run("scontrol", "update", f"JobId={first[training.key]}", "StartTime=now")  # otherwise in two minutes
    wait_until(lambda: all(training.node() == NODES[1] for training in lost), PATIENCE, "the lost jobs run elsewhere")
    cluster.start_node(NODES[0])
    for training, images in zip(trainings, saved, strict=True):
        wait_until(training.held, PATIENCE, "it trains again, and stops")
        assert (training.saved() > images) == (training in lost)
    project.release()

    snakemake.kill()
    snakemake.wait()
    finished, continued, awaited, cancelled = sorted(trainings, key=lambda training: training not in lost)
    finished.signal(signal.SIGCONT)
    wait_until(lambda: finished.jobs()[-1].over, PATIENCE, "a training ends without a Snakemake")
    assert finished.jobs()[-1].state == "COMPLETED"
    ended = finished.file("training.json").stat().st_mtime_ns
    unlock = project.snakemake("--unlock")
    assert unlock.wait(PATIENCE) == 0
    snakemake = project.snakemake("results/digits/emm.csv")
    running = (continued, awaited, cancelled)
    waiting = "trains this run; waiting for its end"
    wait_until(lambda: all(waiting in training.log for training in running), PATIENCE, "the new trainings wait")
    assert all(f"SLURM job {first[training.key]} " in training.log for training in running)
    cluster.run("scancel", first[cancelled.key])
    for training in (continued, awaited):
        for process in cluster.processes("emmeter.stages.train", training.key):
            process.kill(signal.SIGCONT)

    project.finish(snakemake)
    assert finished.file("training.json").stat().st_mtime_ns == ended
    assert len(finished.jobs()) == 1
    for training, images in zip(trainings, saved, strict=True):
        assert 0 < images <= training.record["resumed_at_image"]
    for training in (continued, awaited):
        assert [job.state for job in training.jobs()] == ["COMPLETED", "COMPLETED"]
        assert training.record["resumed_at_image"] == IMAGES  # the second job uses the finished state of the first
    assert [job.state for job in cancelled.jobs()] == ["CANCELLED", "COMPLETED"]
    assert cancelled.record["resumed_at_image"] < IMAGES
    project.check_same_results(undisturbed)
    project.check_nothing_is_left()
    again = project.snakemake("results/digits/emm.csv", "--dry-run")
    assert again.wait(PATIENCE) == 0
    assert "Nothing to be done" in project.output.rpartition("Building DAG of jobs")[2]
