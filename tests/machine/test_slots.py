"""Slots on GPUs, with real processes: claimed evenly, never shared, and free again however their holder ends."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emmeter.machine import slots

pytestmark = pytest.mark.slow

# A command that prints its visible devices and ends with its input.
HOLD = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
PATIENCE = 120  # seconds, reached only if something is wrong


class Job:
    """A process that claims slots and holds them."""

    def __init__(self, folder: Path, devices: str, jobs_per_gpu: int = 1, count: int = 1):
        options = ["--folder", folder, "--devices", devices, "--jobs-per-gpu", jobs_per_gpu, "--count", count]
        self.errors = folder.parent / f"errors-{time.monotonic_ns()}"
        with open(self.errors, "w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "emmeter.machine.slots", *map(str, options), "--", sys.executable, "-c", HOLD],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip

    def devices(self) -> list[str]:
        """The devices of the job; waits until it has them."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip().split(",")

    def device(self) -> str:
        (device,) = self.devices()
        return device

    def waits(self) -> None:
        """Return when the job has reported that it waits."""
        until(lambda: "waiting" in self.log())
        assert "on GPU" not in self.log()

    def log(self) -> str:
        return self.errors.read_text()

    def end(self, number: int | None = None) -> int:
        if number is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
        else:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def started(*arguments: object) -> Job:
        jobs.append(Job(tmp_path / "locks", *arguments))  # type: ignore[arg-type]
        return jobs[-1]

    yield started
    for job in jobs:
        with job.process:  # closes its pipes and waits
            job.process.kill()


# Where jobs go


def test_jobs_spread_over_gpus_before_they_share_one(start):
    devices = [start("0,1,2", 2).device() for _ in range(6)]
    assert sorted(devices[:3]) == ["0", "1", "2"]
    assert Counter(devices) == {"0": 2, "1": 2, "2": 2}


def test_a_job_goes_to_the_device_with_the_fewest_jobs(start):
    jobs: dict[str, list[Job]] = {"0": [], "1": []}
    for _ in range(6):
        job = start("0,1", 3)
        jobs[job.device()].append(job)
    assert {device: len(held) for device, held in jobs.items()} == {"0": 3, "1": 3}
    for job in [jobs["0"][0], *jobs["1"][1:]]:  # GPU 0 keeps two jobs and a free first slot, GPU 1 keeps one job
        job.end()
    assert start("0,1", 3).device() == "1"


def test_several_gpus_at_once_are_different_devices(start):
    assert sorted(start("0,1,2", 2, 2).devices()) in (["0", "1"], ["0", "2"], ["1", "2"])
    assert sorted(start("0,1,2", 2, 3).devices()) == ["0", "1", "2"]


def test_numbers_and_uuids_of_gpus_and_parts_of_them(start, tmp_path):
    names = ["0", "GPU-8f6b1c2e-5d07-aa11", "MIG-3c1f5d07", "MIG-GPU-5c89852c/7/0", "MIG-GPU-5c89852c/7/1"]
    assert sorted(start(",".join(names)).device() for _ in names) == sorted(names)
    paths = list((tmp_path / "locks").iterdir())
    assert len(paths) == 2 * len(names)
    assert all(not any(path.iterdir()) for path in paths)


def test_a_hostile_name_stays_in_the_folder(start, tmp_path):
    assert start("../../x").device() == "../../x"
    assert {path.name for path in (tmp_path / "locks").iterdir()} == {"..%2F..%2Fx.turn", "..%2F..%2Fx-0"}


# Waiting


@pytest.mark.parametrize("how", [None, signal.SIGTERM, signal.SIGKILL])
def test_a_slot_is_free_again_however_its_job_ends(start, how):
    first = start("7")
    assert first.device() == "7"
    second = start("7")
    second.waits()
    assert "waiting for 1 of the GPUs 7 (1 slots each, locks in " in second.log()
    assert first.end(how) == -(how or 0)
    assert second.device() == "7"
    assert second.log().splitlines()[1:] == ["on GPU 7 (slot 1 of 1)"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_job_that_is_killed_while_waiting_leaves_nothing(start, how):
    first = start("0")
    first.device()
    second, third = start("0"), start("0")
    second.waits()
    third.waits()
    assert second.end(how) == -how
    assert "Traceback" not in second.log()
    first.end()
    assert third.device() == "0"


def test_a_job_of_many_gpus_is_not_overtaken(start):
    small = [start("0,1"), start("0,1")]
    holders = {job.device(): job for job in small}
    large = start("0,1", 1, 2)
    large.waits()
    late = start("0,1")
    late.waits()
    holders["0"].end()
    time.sleep(3 * slots.POLL)  # GPU 0 stays free for the large job
    assert "on GPU" not in late.log() + large.log()
    holders["1"].end()
    assert sorted(large.devices()) == ["0", "1"]
    assert "on GPU" not in late.log()
    large.end()
    assert late.device() in ("0", "1")


def test_a_waiting_job_holds_no_slot(start):
    first = start("0,1")
    taken = first.device()
    large = start("0,1", 1, 2)
    large.waits()
    large.end(signal.SIGKILL)
    other = start("0,1")
    assert {taken, other.device()} == {"0", "1"}


def test_jobs_that_wait_for_other_gpus_delay_no_job(start):
    first = start("0")
    first.device()
    start("0").waits()
    assert start("1").device() == "1"


def test_never_too_many_at_once(tmp_path):
    """Jobs of one, two and three GPUs start together; each notes its beginning and its end."""
    log = tmp_path / "log"
    code = (
        "import os, sys, time\n"
        "def note(what): os.write(log, f'{what} {os.environ[\"CUDA_VISIBLE_DEVICES\"]}\\n'.encode())\n"
        "log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
        "note('begin'); time.sleep(0.05); note('end')\n"
    )
    options = ["--folder", tmp_path / "locks", "--devices", "0,1,2", "--jobs-per-gpu", 2]
    jobs = [
        subprocess.Popen(
            [sys.executable, "-m", "emmeter.machine.slots", *map(str, options), "--count", str(count), "--",
             sys.executable, "-c", code, log],
            stderr=subprocess.DEVNULL,
        )
        for count in (1, 2, 3, 1, 1, 2, 3, 1, 2, 1)
    ]  # fmt: skip
    assert [job.wait(PATIENCE) for job in jobs] == [0] * len(jobs)
    running: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        what, devices = line.split()
        assert len(set(devices.split(","))) == len(devices.split(","))
        for device in devices.split(","):
            running[device] += 1 if what == "begin" else -1
        assert max(running.values()) <= 2
    assert set(running) == {"0", "1", "2"} and set(running.values()) == {0}


# The environment of the command


def claimed(tmp_path: Path, devices: str) -> list[str]:
    """Words before a command that needs one of the devices."""
    return [sys.executable, "-m", "emmeter.machine.slots", "--folder", f"{tmp_path}/locks", "--devices", devices, "--"]


def environment(tmp_path: Path, **extra: str) -> dict[str, str]:
    code = "import os; print(*(f'{k}={v}' for k, v in os.environ.items() if k.startswith('CUDA_')), sep='\\n')"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    ended = subprocess.run(
        [*claimed(tmp_path, "2,5"), sys.executable, "-c", code], env=kept | extra, capture_output=True, text=True
    )
    return dict(line.split("=") for line in ended.stdout.splitlines())


def test_devices_are_numbered_as_by_nvidia_smi_unless_the_user_chose_devices(tmp_path):
    assert environment(tmp_path) == {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert environment(tmp_path, CUDA_VISIBLE_DEVICES="5,2") == {"CUDA_VISIBLE_DEVICES": "2"}
    fastest = environment(tmp_path, CUDA_DEVICE_ORDER="FASTEST_FIRST")
    assert fastest == {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}


def test_options_and_exit_status_are_the_commands_own(tmp_path):
    code = "import sys; print(sys.argv[1:]); sys.exit(7)"
    words = ["--devices", "9", "--", "a b", "-x"]
    done = subprocess.run([*claimed(tmp_path, "0"), sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.strip() == repr(words)
    assert done.returncode == 7


def test_starting_costs_next_to_nothing():
    code = "import sys, emmeter.machine.slots; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pydantic", "yaml", "emmeter.settings.sections", "subprocess"} & set(loaded)


# Refusals: one line, and no command started


def refused(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "emmeter.machine.slots", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == ""
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ") and "Traceback" not in done.stderr
    return line


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--devices", "0,1", "--count", "3"], "3 GPUs at once: must be 1 to 2"),
        (["--devices", "0,0", "--count", "2"], "2 GPUs at once: must be 1 to 1"),
        (["--devices", "0", "--count", "0"], "0 GPUs at once: must be 1 to 1"),
        (["--devices", ""], "1 GPUs at once: must be 1 to 0"),
        (["--devices", "0", "--jobs-per-gpu", "0"], "0 jobs per GPU: must be at least 1"),
        (["--devices", "0" * 300], "File name too long"),
    ],
)
def test_impossible_claims(tmp_path, options, part):
    assert part in refused("--folder", tmp_path / "locks", *options, "--", "echo", "started")


def test_a_command_that_does_not_exist(tmp_path):
    assert "no-such-command: cannot be run" in refused(
        "--folder", tmp_path / "locks", "--devices", "0", "--", "no-such-command"
    )


def test_a_folder_that_others_can_write_to(tmp_path):
    folder = tmp_path / "locks"
    folder.mkdir()
    folder.chmod(0o777)
    assert f"{folder}: must be a folder of your own" in refused("--folder", folder, "--devices", "0", "--", "echo")
    (tmp_path / "other").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "other")
    assert "must be a folder of your own" in refused("--folder", link, "--devices", "0", "--", "echo")
    (tmp_path / "file").touch()
    assert "file" in refused("--folder", tmp_path / "file", "--devices", "0", "--", "echo")


# Locks


def test_the_default_folder_is_the_users_own_and_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert slots.default_folder() == Path(f"/tmp/emm-gpus-{os.geteuid()}")


def test_locks_of_one_process_exclude_each_other_and_leave_nothing_open(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    first = slots.claim(["0", "1"], 2, 2, tmp_path / "locks", lambda: pytest.fail("waited"))
    second = slots.claim(["0", "1"], 2, 1, tmp_path / "locks", lambda: pytest.fail("waited"))
    assert [(slot.device, slot.number) for slot in first] == [("0", 0), ("1", 0)]
    assert [slot.number for slot in second] == [1]
    assert len(set(os.listdir("/proc/self/fd")) - before) == 3
    assert not any(os.get_inheritable(slot.lock) for slot in first)  # until the command takes over
    for slot in first + second:
        os.close(slot.lock)
    assert set(os.listdir("/proc/self/fd")) == before
