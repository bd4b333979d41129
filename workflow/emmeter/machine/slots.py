"""Slots on the GPUs of one machine, which jobs claim from one another by locks.

``python -m emmeter.machine.slots --devices 0,1 --jobs-per-gpu 2 -- COMMAND`` waits until a slot is free, sets
CUDA_VISIBLE_DEVICES to its device, and becomes COMMAND, which inherits the lock.  The command needs to know nothing of
this, sees its own devices alone whenever it first asks CUDA, and releases its slot however it ends: the kernel frees
the lock. A process that computes in its place (`emmeter.machine.warm`) gets the locks too.

The locks lie on the machine whose devices they stand for, not with the results, which several machines may share; and
in one folder a user, so that all projects of the user keep out of one another's way.

Nothing heavy is imported here, because every job on a GPU starts with this module.
"""

import argparse
import contextlib
import fcntl
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

LOCKS = "EMM_LOCKS"  # variable: descriptors of the locks of a command's slots, joined by commas
POLL = 0.5  # seconds between two looks for a free slot


class SlotError(RuntimeError):
    """No slot can be claimed, however long one waits; the message is one line."""


@dataclass(frozen=True)
class Slot:
    """A place on a device, counted from 0, held as long as its lock (a file descriptor) is open somewhere."""

    device: str
    place: int
    lock: int


def default_folder() -> Path:
    """The folder of this user's locks.

    Not TMPDIR, which differs between sessions, nor /run/user, which is emptied at logout while jobs may run on.
    """
    return Path(f"/tmp/emm-gpus-{os.geteuid()}")


def claim(
    devices: Sequence[str], jobs_per_gpu: int, count: int, folder: Path, waiting: Callable[[], None]
) -> list[Slot]:
    """Claim a slot on each of `count` different devices at once, those with the fewest jobs; wait until they are free.

    Who waits has the turn on all `devices` and takes nothing before it can take all.  So nobody waits for a slot of
    somebody who waits, and a job that needs many devices is not overtaken for ever by jobs that need one.

    Args:
        devices: as CUDA_VISIBLE_DEVICES names them.
        jobs_per_gpu: slots on each device.
        folder: of the locks; made where it is missing.
        waiting: called once if no slot is free at once.
    Raises:
        SlotError: no slots, fewer devices than `count`, or somebody else may write to the folder.
    """
    devices = list(dict.fromkeys(devices))
    if not 1 <= count <= len(devices):
        raise SlotError(f"{count} GPUs at once: must be 1 to {len(devices)}, the number of devices to share out")
    if jobs_per_gpu < 1:
        raise SlotError(f"{jobs_per_gpu} jobs per GPU: must be at least 1")
    _prepare(folder)
    announced = False

    def announce() -> None:
        nonlocal announced
        if not announced:
            announced = True
            waiting()

    with contextlib.ExitStack() as turns:
        for device in sorted(devices):  # in one order for all, so that no two wait for each other's turn
            turns.enter_context(_turn(folder / f"{quote(device, safe='')}.turn", announce))
        while (slots := _free(devices, jobs_per_gpu, count, folder)) is None:
            announce()
            time.sleep(POLL)
        return slots


def _prepare(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise SlotError(f"{folder}: must be a folder of your own that nobody else can write to; remove it")


@contextlib.contextmanager
def _turn(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    lock = _locked(path)
    if lock is None:
        waiting()
        lock = _locked(path, block=True)
    assert lock is not None
    try:
        yield
    finally:
        os.close(lock)


def _free(devices: Sequence[str], jobs_per_gpu: int, count: int, folder: Path) -> list[Slot] | None:
    """A slot on each of the `count` devices with the most free slots, or None, with nothing held.

    Locks every free slot for a moment, which only a process that has the turn on the devices may do.
    """
    free: list[list[Slot]] = []
    for device in devices:
        tried = [(place, _locked(folder / f"{quote(device, safe='')}-{place}")) for place in range(jobs_per_gpu)]
        free.append([Slot(device, place, lock) for place, lock in tried if lock is not None])
    best = sorted((slots for slots in free if slots), key=len, reverse=True)[:count]
    chosen = [slots[0] for slots in best] if len(best) == count else []
    for slot in (slot for slots in free for slot in slots if slot not in chosen):
        os.close(slot.lock)
    return chosen or None


def _locked(path: Path, block: bool = False) -> int | None:
    """The lock of that name, held; None if another process holds it and `block` is not set.

    A directory, because systemd-tmpfiles, which removes old files from /tmp, leaves locked directories alone.
    """
    operation = fcntl.LOCK_EX if block else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        path.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as failure:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            failure.callback(os.close, lock)
            try:
                fcntl.flock(lock, operation)
            except BlockingIOError:
                return None
            if os.path.samestat(os.fstat(lock), os.stat(path)):  # else it was removed: lock what has the name now
                failure.pop_all()
                return lock


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a command on GPUs of its own, when they are free.")
    parser.add_argument("--devices", required=True, help="to share out, as in CUDA_VISIBLE_DEVICES: 0,1")
    parser.add_argument("--jobs-per-gpu", type=int, default=1, help="jobs at once on one device")
    parser.add_argument("--count", type=int, default=1, help="devices that this command needs at once")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="of the locks")
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end without a traceback; Python commands set their own handler
    devices = [device for device in args.devices.split(",") if device]

    def waiting() -> None:
        slots = f"{args.jobs_per_gpu} slots each, locks in {args.folder}"
        print(f"waiting for {args.count} of the GPUs {args.devices} ({slots})", file=sys.stderr, flush=True)

    try:
        slots = claim(devices, args.jobs_per_gpu, args.count, args.folder, waiting)
        for slot in slots:
            os.set_inheritable(slot.lock, True)
        os.environ[LOCKS] = ",".join(str(slot.lock) for slot in slots)
        places = ", ".join(f"GPU {slot.device} (slot {slot.place + 1} of {args.jobs_per_gpu})" for slot in slots)
        print(f"on {places}", file=sys.stderr, flush=True)
        if "CUDA_VISIBLE_DEVICES" not in os.environ:  # numbers are then nvidia-smi's, not CUDA's own by speed
            os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(slot.device for slot in slots)
        try:
            os.execvp(args.command[0], args.command)
        except OSError as error:
            raise SlotError(f"{args.command[0]}: cannot be run ({error.strerror})") from None
    except (SlotError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
