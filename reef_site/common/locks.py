"""Lock files that hold even when somebody sweeps them away. Standard library only.

`flock` locks an inode, and whoever comes later opens a path: once the file was removed, a second
process locks a new file of that name and both go on. So each holder compares the two after it
has taken a lock, and one that holds a lock for long does so again and again (`keep`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOOK_SECONDS = 0.05
# A holder looks that often whether the file is still the one it has locked.
KEEP_SECONDS = 2.0
# What sweeps temporary folders goes by age: a file that is held is never older than this.
_TOUCH_SECONDS = 3600.0
# Somebody removes the file each time that it was locked: that is no sweeper.
_MOST_TRIES = 100


class FileLock:
    """An exclusive lock that ends with its process, by the path of a file that need not exist."""

    def __init__(self, path: Path | str, descriptor: int | None = None) -> None:
        """With `descriptor`, of an open file that is locked already."""
        self.path = Path(path)
        self._file = descriptor

    @property
    def descriptor(self) -> int:
        """The open file; only while the lock is held."""
        assert self._file is not None
        return self._file

    def try_take(self) -> bool:
        """Take the lock now; False if another process holds it."""
        taken = self._open_locked()
        if taken is None:
            return False
        self.release()
        self._file = taken
        return True

    def take(self, patience: float | None = None) -> bool:
        """Wait for the lock, with `patience` for that many seconds; False when they are over."""
        end = None if patience is None else time.monotonic() + patience
        while not self.try_take():
            if end is not None and time.monotonic() > end:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def keep(self) -> bool:
        """Return whether the lock is still ours, after taking a file that was swept away anew.

        False, and the lock is released, when another process was quicker.
        """
        if self._file is None:
            return False
        if _is_at(self._file, self.path):
            with contextlib.suppress(OSError):
                if time.time() - os.fstat(self._file).st_mtime > _TOUCH_SECONDS:
                    os.utime(self._file)
            return True
        try:
            kept = self.try_take()
        except OSError:
            # Its folder is gone, too, or the disk is full: nobody else can lock it either.
            return True
        if not kept:
            self.release()
        return kept

    def release(self) -> None:
        """Let go of the lock; the file stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open_locked(self) -> int | None:
        for _ in range(_MOST_TRIES):
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                return None
            except OSError:
                os.close(file)
                raise
            if _is_at(file, self.path):
                return file
            os.close(file)
        raise OSError(f"{self.path} is removed again and again")


@contextlib.contextmanager
def held(path: Path | str) -> Iterator[None]:
    """Hold the lock of this path for a short piece of work."""
    lock = FileLock(path)
    lock.take()
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path | str, *, strict: bool = False) -> bool:
    """Return whether some process holds the lock of this file or folder.

    A path that cannot be opened is not held; with `strict` it raises OSError.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        if strict:
            raise
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _is_at(file: int, path: Path) -> bool:
    """Return whether this path still names this open file, and not another one."""
    try:
        there = os.stat(path)
    except OSError:
        return False
    mine = os.fstat(file)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
