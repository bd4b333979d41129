"""A full disk at any write of any stage: one line names the file, nothing is half-written, and the same command
continues once there is space."""

import errno
import os
import random
import resource
import subprocess
from functools import partial

import pytest
from outcome import assert_equal, assert_whole, remove

from forked import Ended, start
from one_run import STAGES, Pipeline

WRITING = (*STAGES, "study", "figures", "summary")
LINE = 500  # bytes that the stage's log may need
POINTS = 8  # amounts of space tried per stage


def refused(ended: Ended, reason: int) -> None:
    """The stage ended with status 1 and one line that names a file and the reason."""
    assert ended.status == 1, ended
    lines = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and os.strerror(reason) in lines[0] and "'" in lines[0], ended.output
    assert "Traceback" not in ended.output


def limit_files(size: int) -> None:
    """Limit every file of this process to `size` bytes, so that writes fail as on a full disk, also for root."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("stage", WRITING)
def test_no_room_for_a_file(clean, before, faults, tmp_path, stage):
    pipeline = before(stage)
    log, arguments = tmp_path / "log", pipeline.arguments(stage)
    files = _files(clean[0], stage)
    sizes = sorted({path.stat().st_size for path in files if path.stat().st_size > LINE})
    chosen = [LINE + 1, *random.Random(stage).sample(sizes, min(len(sizes), POINTS - 1))]
    for size in chosen:  # one byte too few for a file of the stage and for all larger files
        with faults.one("no room for a file"):
            refused(start(log, arguments, partial(limit_files, size - 1)).end(), errno.EFBIG)
            assert_whole(pipeline, clean[1])
            assert not [path for path in pipeline.results.rglob(".*") if path.is_file()]
    ended = start(log, arguments).end()
    assert ended.status == 0, ended.output
    assert_equal(pipeline, stage, clean[1])


def _files(pipeline: Pipeline, stage: str):
    if stage == "summary":
        return [pipeline.results / "emm.csv", pipeline.results / "emm.html"]
    if stage in ("study", "figures"):
        drawn = (".svg", ".png")
        return [path for path in pipeline.study.iterdir() if (path.suffix in drawn) == (stage == "figures")]
    return list(pipeline.folder(stage).iterdir())  # type: ignore[arg-type]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes for the results."""
    folder = tmp_path / "results"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(["umount", folder], check=True)


def leave(folder, room: int) -> None:
    """Fill a disk until `room` bytes are free."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    free = os.statvfs(folder)
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_frsize - room, 1))


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(clean, small_disk, before, faults, tmp_path, stage):
    pipeline = before(stage)
    log, arguments = tmp_path / "log", pipeline.arguments(stage)
    page = os.sysconf("SC_PAGE_SIZE")
    needed = sum(-(-path.stat().st_size // page) for path in _files(clean[0], stage))
    if stage == "train":
        needed *= 3  # also for its states and its single snapshots
    rooms = sorted({0, 1, *random.Random(stage).sample(range(2, max(needed, 8)), POINTS - 2)})
    survived = 0
    for room in rooms:
        leave(small_disk, room * page)
        ended = start(log, arguments).end()
        if ended.status == 0:  # there was enough space
            remove(pipeline, stage)
            continue
        with faults.one("full disk"):
            refused(ended, errno.ENOSPC)
            (small_disk / "filler").unlink()
            assert_whole(pipeline, clean[1])
            survived += 1
    assert survived >= 2
    (small_disk / "filler").unlink(missing_ok=True)
    ended = start(log, arguments).end()
    assert ended.status == 0, ended.output
    assert_equal(pipeline, stage, clean[1])
