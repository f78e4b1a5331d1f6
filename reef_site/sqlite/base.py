"""A fair queue for SQLite's write lock.

SQLite allows one writer at a time. Waiting writers retry after pauses that grow to a tenth of a
second, and a newcomer may overtake them: with four busy writers, some wait for seconds. Here the
writer that holds a lock on a file beside the database is next: it retries every half millisecond,
and no newcomer can overtake it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from django.db import OperationalError
from django.db.backends.sqlite3 import base

Result = TypeVar("Result")

RETRY_SECONDS = 0.0005
_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE")


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's wrapper, with a queue for immediate transactions and single writing statements."""

    _queue_file: int | None = None
    # Whether SQLite's own busy timeout is off because the queue waits instead.
    _busy_timeout_off = False

    def create_cursor(self, name: str | None = None) -> Any:
        """Return a cursor that uses this wrapper's queue."""
        return self.connection.cursor(factory=partial(_Cursor, database=self))

    def with_write_lock(self, act: Callable[[], Result]) -> Result:
        """Call `act`, which needs the write lock, when it is free and it is our turn."""
        end = time.monotonic() + self._timeout
        with self.next_in_turn(end):
            if not self._busy_timeout_off:
                self.connection.execute("PRAGMA busy_timeout = 0")
                self._busy_timeout_off = True
            while True:
                try:
                    return act()
                except (OperationalError, sqlite3.OperationalError) as error:
                    if "locked" not in str(error) or time.monotonic() > end:
                        raise
                time.sleep(RETRY_SECONDS)

    def restore_busy_timeout(self) -> None:
        """Turn SQLite's own busy timeout on again, for statements that do not write.

        Inside a transaction nothing waits any more, so heartbeats, which are short
        transactions, do not need this.
        """
        if self._busy_timeout_off:
            self.connection.execute(f"PRAGMA busy_timeout = {self._timeout * 1000:.0f}")
            self._busy_timeout_off = False

    @property
    def _timeout(self) -> float:
        return float(self.settings_dict["OPTIONS"].get("timeout", 5.0))

    def _start_transaction_under_autocommit(self) -> None:
        begin = super()._start_transaction_under_autocommit  # type: ignore[misc]
        if self.settings_dict["OPTIONS"].get("transaction_mode") != "IMMEDIATE":
            begin()
        else:
            self.with_write_lock(begin)

    @contextlib.contextmanager
    def next_in_turn(self, end: float) -> Iterator[None]:
        """Hold the queue's lock file, so that only the current writer is ahead of us.

        After `end`, or if there can be no such file, continue without it.
        """
        if self._queue_file is None and not self.is_in_memory_db():
            with contextlib.suppress(OSError):
                path = f"{self.settings_dict['NAME']}-turnstile"
                self._queue_file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._queue_file is None:
            yield
            return
        while not _try_lock(self._queue_file) and time.monotonic() < end:
            time.sleep(RETRY_SECONDS)
        try:
            yield
        finally:
            fcntl.flock(self._queue_file, fcntl.LOCK_UN)

    def _close(self) -> Any:
        if self._queue_file is not None:
            os.close(self._queue_file)
            self._queue_file = None
        self._busy_timeout_off = False
        return super()._close()  # type: ignore[misc]


class _Cursor(base.SQLiteCursorWrapper):
    """Cursor whose writing statements outside of a transaction use the queue as well."""

    def __init__(self, connection: Any, *, database: DatabaseWrapper) -> None:
        super().__init__(connection)
        self._database = database

    def execute(self, query: str, params: Any = None) -> Any:
        run = partial(super().execute, query, params)
        if self._database.in_atomic_block or query.startswith("BEGIN"):
            return run()
        if query.startswith(_WRITES):
            return self._database.with_write_lock(run)
        self._database.restore_busy_timeout()
        return run()

    def executemany(self, query: str, param_list: Any) -> Any:
        if not self._database.in_atomic_block:
            self._database.restore_busy_timeout()
        return super().executemany(query, param_list)


def _try_lock(turnstile: int) -> bool:
    try:
        fcntl.flock(turnstile, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
