"""Kills by the kernel for lack of memory."""

from __future__ import annotations

import contextlib
import os
import time

from .limits import KILL_COUNT_SECONDS


class MemoryKills:
    """Counts processes killed by the kernel for memory: in our cgroup, else on the machine."""

    def __init__(self) -> None:
        self._path = self._find()
        self._count = self._read()
        self._counted_at = time.monotonic()
        self._last_kill_at: float | None = None

    def refresh(self, now: float) -> None:
        """Count now and then, so that an old kill does not appear as a recent one."""
        if now - self._counted_at >= KILL_COUNT_SECONDS:
            self._recount(now)

    def are_new(self) -> bool:
        """Return whether there was a recent kill; the kernel counts before it kills."""
        now = time.monotonic()
        self._recount(now)
        return self._last_kill_at is not None and now - self._last_kill_at <= 2 * KILL_COUNT_SECONDS

    def _recount(self, now: float) -> None:
        count = self._read()
        if count > self._count:
            self._last_kill_at = now
        self._count, self._counted_at = count, now

    @staticmethod
    def _find() -> str:
        with contextlib.suppress(OSError), open("/proc/self/cgroup") as file:
            for line in file:
                number, controllers, path = line.rstrip("\n").split(":", 2)
                if number == "0":
                    found = "/sys/fs/cgroup{}/memory.events".format(path.rstrip("/"))
                elif "memory" in controllers.split(","):
                    found = "/sys/fs/cgroup/memory{}/memory.oom_control".format(path.rstrip("/"))
                else:
                    continue
                if os.path.exists(found):
                    return found
        return "/proc/vmstat"

    def _read(self) -> int:
        with contextlib.suppress(OSError, ValueError), open(self._path) as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0
