"""Collects dead children that nobody waits for: those that were inherited from others.

A process that is PID 1 of its container, or a sub-reaper, becomes the parent of every orphan. If it
never waits for them, the dead fill the table of processes. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path

logger = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
# By then whoever started a child itself has asked for its exit status.
_LEFT_ALONE_SECONDS = 3.0


def become_subreaper() -> None:
    """Become the parent of orphans below us; an old kernel refuses, which does no harm."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Reaper:
    """Collects the dead, but not those in `own`, whose exit status somebody else waits for.

    With `patience`, a dead child is left to whoever may wait for it for so many seconds first.
    """

    def __init__(self, patience: float = 0.0) -> None:
        self._patience = patience
        self._dead_since: dict[int, float] = {}

    def reap(self, own: Collection[int] = ()) -> int:
        """Collect what is dead now; return how many were collected."""
        now, count = time.monotonic(), 0
        dead = [pid for pid in _children() if pid not in own and _is_dead(pid)]
        self._dead_since = {pid: self._dead_since.get(pid, now) for pid in dead}
        for pid, since in self._dead_since.items():
            if now - since >= self._patience:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                    count += 1
        return count


def reap_in_background() -> None:
    """Collect dead orphans as long as this process lives; for one that is PID 1."""
    dead = Reaper(_LEFT_ALONE_SECONDS)

    def run() -> None:
        while True:
            time.sleep(1.0)
            try:
                dead.reap()
            except Exception:
                logger.exception("dead processes cannot be collected; trying again")

    threading.Thread(target=run, name="reef-reaper", daemon=True).start()


def _is_dead(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _children() -> list[int]:
    """Return the children of the main thread, which orphans are given to."""
    mine = os.getpid()
    try:
        listed = Path(f"/proc/{mine}/task/{mine}/children").read_text()
    except OSError:
        return [pid for pid in _pids() if _parent_of(pid) == mine]
    return [int(word) for word in listed.split()]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
