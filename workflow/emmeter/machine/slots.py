"""Slots on the GPUs of one machine, which jobs claim by locks.

``python -m emmeter.machine.slots --devices 0,1 --jobs-per-gpu 2 -- COMMAND`` waits for a free slot, sets
CUDA_VISIBLE_DEVICES to the slot's device, and becomes COMMAND, which inherits the lock.  So the command needs no
knowledge of slots, and CUDA shows it only its own devices.  It releases its slot however it ends, because the kernel
frees the lock.  If `emmeter.machine.warm` runs the stage in another process, that process gets the locks too.

The locks are stored on the machine that has the devices, not with the results, which several machines may share.  One
folder per user holds them, so all projects of a user share out the same GPUs.

Delete this module when Snakemake hands out GPU ids itself (its issue #281).

Nothing heavy is imported here, because every job on a GPU starts with this module.
"""

import argparse
import contextlib
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from emmeter import locks

LOCKS = "EMM_LOCKS"  # variable: descriptors of the locks of a command's slots, joined by commas
POLL = 0.5  # seconds between two looks for a free slot


class SlotError(RuntimeError):
    """No slot can ever be claimed.  The message is one line."""


@dataclass(frozen=True)
class Slot:
    """A slot on a device; it stays taken as long as its lock (a file descriptor) is open in some process."""

    device: str
    number: int  # counted from 0 on each device
    lock: int


def default_folder() -> Path:
    """The folder of this user's locks.

    TMPDIR would not do, because it differs between sessions.  Nor would /run/user, which is emptied at logout while
    jobs may still run.
    """
    return Path(f"/tmp/emm-gpus-{os.geteuid()}")


def claim(
    devices: Sequence[str], jobs_per_gpu: int, count: int, folder: Path, waiting: Callable[[], None]
) -> list[Slot]:
    """Claim one slot on each of `count` different devices at once; wait until they are free.

    The devices with the fewest jobs are chosen.  A waiting job holds the turn on all `devices` and takes no slot before
    it can take all that it needs.  So no job waits for a slot of another waiting job, and jobs that need one device do
    not overtake a job that needs many.

    Args:
        devices: as CUDA_VISIBLE_DEVICES names them.
        jobs_per_gpu: slots on each device.
        folder: where the locks are stored; made where it is missing.
        waiting: called once if the slots are not free immediately.
    Raises:
        SlotError: no slots, fewer devices than `count`, or another user may write to the folder.
        OSError: the locks cannot be made.
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
        for device in sorted(devices):  # all jobs use this order, so no two wait for each other's turn
            turns.enter_context(locks.held(_path(folder, device, ".turn"), locks.open_folder, announce))
        while (slots := _free_slots(devices, jobs_per_gpu, count, folder)) is None:
            announce()
            time.sleep(POLL)
        return slots


def _prepare(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise SlotError(f"{folder}: must be a folder of your own that nobody else can write to; remove it")


def _path(folder: Path, device: str, suffix: str) -> Path:
    return folder / f"{quote(device, safe='')}{suffix}"


def _free_slots(devices: Sequence[str], jobs_per_gpu: int, count: int, folder: Path) -> list[Slot] | None:
    """Take a slot on each of the `count` devices with the most free slots, or return None and take nothing.

    Every free slot is locked for a moment.  Only a process that has the turn on the devices may do this.
    """
    free: list[list[Slot]] = []
    for device in devices:
        attempts = [
            (number, locks.acquire(_path(folder, device, f"-{number}"), locks.open_folder))
            for number in range(jobs_per_gpu)
        ]
        free.append([Slot(device, number, lock) for number, lock in attempts if lock is not None])
    best = sorted((slots for slots in free if slots), key=len, reverse=True)[:count]
    chosen = [slots[0] for slots in best] if len(best) == count else []
    for slot in (slot for slots in free for slot in slots if slot not in chosen):
        os.close(slot.lock)
    return chosen or None


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a command on GPUs of its own, when they are free.")
    parser.add_argument("--devices", required=True, help="GPUs to share out, as in CUDA_VISIBLE_DEVICES: 0,1")
    parser.add_argument("--jobs-per-gpu", type=int, default=1, help="jobs at once on one device")
    parser.add_argument("--count", type=int, default=1, help="devices that this command needs")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="where the locks are stored")
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback; Python commands set their own handler
    devices = [device for device in args.devices.split(",") if device]

    def waiting() -> None:
        where = f"{args.jobs_per_gpu} slots each, locks in {args.folder}"
        print(f"waiting for {args.count} of the GPUs {args.devices} ({where})", file=sys.stderr, flush=True)

    try:
        slots = claim(devices, args.jobs_per_gpu, args.count, args.folder, waiting)
        for slot in slots:
            os.set_inheritable(slot.lock, True)
        os.environ[LOCKS] = ",".join(str(slot.lock) for slot in slots)
        claimed = ", ".join(f"GPU {slot.device} (slot {slot.number + 1} of {args.jobs_per_gpu})" for slot in slots)
        print(f"on {claimed}", file=sys.stderr, flush=True)
        if "CUDA_VISIBLE_DEVICES" not in os.environ:  # number the devices as nvidia-smi does, not by speed
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
