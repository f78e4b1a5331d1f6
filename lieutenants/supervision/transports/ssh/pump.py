"""One thread that reads, writes and times the connections to all VMs of this process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from lieutenants.supervision.daemon_pool import DaemonPool

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
# While something waits that the network did not take.
BUSY_SECONDS = 0.02
# Logins at once: to machines that work waits for, and to others, of which many may not answer and
# take their slots for as long as a login may take.
LOGINS_AT_ONCE, RETRIES_AT_ONCE = 8, 24
CLOSES_AT_ONCE = 4


class Pumped(Protocol):
    """A connection as the pump sees it. None of these may block."""

    def receive(self) -> None:
        """Take what has arrived."""
        ...

    def flush(self) -> bool:
        """Write what waits; return whether more waits."""
        ...

    def tick(self, now: float) -> None:
        """Do what is due."""
        ...


class Pump:
    """The thread starts with the first connection and is a daemon."""

    def __init__(self) -> None:
        self._bell = threading.Event()
        self._lock = threading.Lock()
        self._all: dict[int, Pumped] = {}
        self._ready: dict[int, Pumped] = {}
        self._unsent: dict[int, Pumped] = {}
        self._thread: threading.Thread | None = None
        self._logins = DaemonPool(LOGINS_AT_ONCE, "reef-ssh-login")
        self._retries = DaemonPool(RETRIES_AT_ONCE, "reef-ssh-retry")
        self._closes = DaemonPool(CLOSES_AT_ONCE, "reef-ssh-close")

    def add(self, link: Pumped) -> None:
        """Serve this connection from now on."""
        with self._lock:
            self._all[id(link)] = link
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="reef-ssh", daemon=True)
                self._thread.start()

    def remove(self, link: Pumped) -> None:
        """Stop serving this connection."""
        with self._lock:
            self._all.pop(id(link), None)
            self._ready.pop(id(link), None)

    def connect(self, work: Callable[[], None], *, is_spare: bool, is_awaited: bool) -> None:
        """Run a blocking login, a few at a time, those first that somebody waits for.

        Spare ones, to machines that seem to be dead or that no work waits for, hold up no other.
        """
        pool = self._retries if is_spare else self._logins
        pool.submit(work, is_urgent=is_awaited)

    def close(self, work: Callable[[], None]) -> None:
        """Run a blocking close."""
        self._closes.submit(work)

    def ring(self, link: Pumped) -> None:
        """Say that there is something to read from, or to write to, this connection."""
        with self._lock:
            self._ready[id(link)] = link
        self._bell.set()

    def _run(self) -> None:
        ticked = 0.0
        while True:
            self._bell.wait(BUSY_SECONDS if self._unsent else TICK_SECONDS)
            self._bell.clear()
            with self._lock:
                ready, self._ready = self._ready, {}
                every = list(self._all.values())
            for link in ready.values():
                self._guard(link, link.receive)
            for link in {**ready, **self._unsent}.values():
                self._flush(link)
            now = time.monotonic()
            if now - ticked >= TICK_SECONDS:
                ticked = now
                for pool in (self._logins, self._retries, self._closes):
                    pool.wake()
                for link in every:
                    self._tick(link, now)

    def _flush(self, link: Pumped) -> None:
        self._unsent.pop(id(link), None)
        try:
            if link.flush():
                self._unsent[id(link)] = link
        except Exception:
            logger.exception("a connection failed")

    def _tick(self, link: Pumped, now: float) -> None:
        self._guard(link, lambda: link.tick(now))

    @staticmethod
    def _guard(_link: Pumped, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            # All other connections of this process depend on this thread.
            logger.exception("a connection failed")
