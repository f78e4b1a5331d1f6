"""Masks known secrets in logs, whatever handlers and formats a process uses."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.core.exceptions import SynchronousOnlyOperation
from django.db import Error as DatabaseError
from django.db import connection, transaction

from versconfig.screening import sources

logger = logging.getLogger(__name__)

# A process that logs checks for new secrets at most this often.
REFRESH_SECONDS = 2.0
_FORMATTER = logging.Formatter()
_refreshed_at = float("-inf")


class CoveringFactory:
    """Creates log records as before, with secrets in message and traceback masked."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._local = threading.local()

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        # Reading secrets may log something itself.
        if not getattr(self._local, "busy", False):
            self._local.busy = True
            try:
                _refresh()
                _cover(record)
            finally:
                self._local.busy = False
        return record


def install() -> None:
    """Mask secrets in the records of this process from now on."""
    before = logging.getLogRecordFactory()
    if not isinstance(before, CoveringFactory):
        logging.setLogRecordFactory(CoveringFactory(before))


def _refresh() -> None:
    """Check for new secrets if the last check is old and the database can be queried."""
    global _refreshed_at
    now = time.monotonic()
    if min(now - _refreshed_at, sources.age_seconds()) < REFRESH_SECONDS or not _can_ask():
        return
    _refreshed_at = now
    was_closed = connection.connection is None
    try:
        if connection.in_atomic_block:
            # With a savepoint: a failure must not break the caller's transaction.
            with transaction.atomic():
                sources.current(recheck=True)
        else:
            sources.current(recheck=True)
    except (DatabaseError, SynchronousOnlyOperation, OSError, RuntimeError) as error:
        # The log line is written in any case, with the secrets known so far masked.
        logger.debug("cannot look for new secrets: %s", type(error).__name__)
    finally:
        if was_closed and not connection.in_atomic_block:
            # Most threads that log do not use the connection otherwise.
            connection.close()


def _can_ask() -> bool:
    """Return whether this thread may query the database now."""
    if not apps.ready or sources.is_being_read():
        return False
    if connection.in_atomic_block and connection.needs_rollback:
        return False
    # Never block an event loop.
    return asyncio._get_running_loop() is None


def _cover(record: logging.LogRecord) -> None:
    cover = sources.latest().cover
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):
        # The handler reports this when it formats the record.
        return
    covered = cover(text)
    if covered != text:
        record.msg, record.args = covered, None
    if record.exc_info and record.exc_info[0]:
        trace = _FORMATTER.formatException(record.exc_info)
        covered = cover(trace)
        if covered != trace:
            record.exc_text = covered
