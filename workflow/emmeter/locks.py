"""Exclusive locks on files and folders.

The kernel keeps a lock with the open file and frees it when the last process that has the file open closes it or dies,
however that happens.  A child that inherits the descriptor shares the lock.

Another process may remove a file between its opening and its locking.  Such a lock excludes no other process, because
the next one opens a new file.  So each lock is checked against the present meaning of its path.

The package filelock would not do: its locks are files only, their descriptors stay private and cannot be handed to a
command, and it takes 60 ms to import.  Only the standard library is imported here, because every job on a GPU starts
with this module.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

ATTEMPTS = 100  # to lock a path that other processes remove at the same time


def open_file(path: Path) -> int:
    """Open a lock file; the file and its folder are made where they are missing.

    The file is opened for writing, because NFS grants an exclusive lock to nothing else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def open_folder(path: Path) -> int:
    """Open a folder as a lock; it is made where it is missing, for this user only.

    In /tmp a folder is safer than a file: systemd-tmpfiles, which removes old entries, leaves locked folders alone.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def lock(descriptor: int, path: Path, block: bool = False) -> bool:
    """Lock the open file `descriptor`.  Return False if another process holds the lock and `block` is not set.

    Raises:
        OSError: the file system has no locks; the error names `path`.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if block else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OSError(error.errno, f"cannot be locked on this file system ({error.strerror})", str(path)) from None
    return True


def acquire(path: Path, opened: Callable[[Path], int] = open_file, block: bool = False) -> int | None:
    """Lock `path` and return its descriptor, or None if another process holds the lock and `block` is not set.

    Args:
        opened: `open_file` or `open_folder`.
    Raises:
        OSError: `path` cannot be made or opened, or its file system has no locks.
    """
    for _ in range(ATTEMPTS):
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as failure:
            descriptor = opened(path)
            failure.callback(os.close, descriptor)
            if not lock(descriptor, path, block):
                return None
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                failure.pop_all()
                return descriptor
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


@contextlib.contextmanager
def held(
    path: Path, opened: Callable[[Path], int] = open_file, waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the lock of `path` during the block.  `waiting` is called once if another process holds it at first."""
    descriptor = acquire(path, opened)
    if descriptor is None:
        waiting()
        descriptor = acquire(path, opened, block=True)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)
