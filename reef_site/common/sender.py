"""Sends messages to Redis from one thread, so that no caller ever waits for it.

A dropped message only makes a reaction come later. So after the first time-out a Redis that hangs
is left alone for some seconds, and all messages of that time are dropped. Then one message is the
probe that finds out whether it answers again.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Callable

from kombu.exceptions import KombuError
from redis import RedisError

logger = logging.getLogger(__name__)

ERRORS = (RedisError, KombuError, OSError)
MAX_WAITING = 5000
OPEN_SECONDS = 2.0
# A failure that took longer than this is a hang. A refused connection costs nothing to try again.
HANG_SECONDS = 0.2
_QUIET_SECONDS = 30.0
_EXIT_SECONDS = 0.3


class Circuit:
    """A circuit breaker: open for a while after the server let somebody wait."""

    def __init__(self) -> None:
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Return whether to leave the server alone now."""
        return time.monotonic() < self._open_until

    def close(self) -> None:
        """Use the server again: somebody else had an answer."""
        self._open_until = 0.0

    def failed(self, seconds: float) -> None:
        """Open the circuit after a failure that took so long, if it was a hang."""
        if seconds >= HANG_SECONDS:
            self._open_until = time.monotonic() + OPEN_SECONDS


class Sender:
    """A queue of messages and the thread that sends them.

    After a time in which messages were dropped, `on_recovery` is called with its seconds.
    """

    def __init__(self, on_recovery: Callable[[float], None] | None = None) -> None:
        self.circuit = Circuit()
        self._on_recovery = on_recovery
        self._waiting: queue.Queue[Callable[[], object]] = queue.Queue(MAX_WAITING)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._dropping_since: float | None = None
        self._complained = -_QUIET_SECONDS
        os.register_at_fork(after_in_child=self._forget)

    def submit(self, send: Callable[[], object]) -> None:
        """Have the thread call `send`, in the order of submission, or drop it."""
        if self.circuit.is_open:
            self._drop()
            return
        try:
            self._waiting.put_nowait(send)
        except queue.Full:
            self._drop()
        if self._thread is None:
            self._start()

    def send_now(self, send: Callable[[], object]) -> bool:
        """Call `send` in this thread; return whether that went well."""
        if self.circuit.is_open:
            self._drop()
            return False
        return self._send(send)

    def flush(self, seconds: float) -> None:
        """Wait until the queue is empty, at most for so long."""
        end = time.monotonic() + seconds
        while self._waiting.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.002)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="reef-sender", daemon=True)
                self._thread.start()
                atexit.register(self.flush, _EXIT_SECONDS)

    def _forget(self) -> None:
        self._thread = None
        self._starting = threading.Lock()
        self._waiting = queue.Queue(MAX_WAITING)

    def _run(self) -> None:
        while True:
            send = self._waiting.get()
            try:
                if self.circuit.is_open:
                    self._drop()
                else:
                    self._send(send)
            except Exception:
                # Such as from `on_recovery`; the thread goes on with the next message.
                logger.exception("the thread that sends notifications has failed")
            finally:
                self._waiting.task_done()

    def _send(self, send: Callable[[], object]) -> bool:
        began = time.monotonic()
        try:
            send()
        except ERRORS as error:
            self.circuit.failed(time.monotonic() - began)
            self._drop()
            self._complain(error)
            return False
        except Exception:
            logger.exception("a notification cannot be sent")
            return False
        if (since := self._dropping_since) is not None and self._on_recovery:
            self._dropping_since = None
            self._on_recovery(time.monotonic() - since)
        return True

    def _drop(self) -> None:
        if self._dropping_since is None:
            self._dropping_since = time.monotonic()

    def _complain(self, error: Exception) -> None:
        if time.monotonic() - self._complained > _QUIET_SECONDS:
            self._complained = time.monotonic()
            logger.warning("Redis does not answer (%s); reactions come later", error)
