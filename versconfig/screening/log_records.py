"""Keeps known secrets out of logs, whatever handlers and formats a process has."""

from __future__ import annotations

import logging
import threading
from typing import Any

from versconfig.screening import sources

_FORMATTER = logging.Formatter()


class CoveringFactory:
    """Makes log records as before, with secrets in message and traceback covered."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self._local = threading.local()

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._make(*args, **kwargs)
        # Looking for secrets may log something itself.
        if not getattr(self._local, "busy", False):
            self._local.busy = True
            try:
                _cover(record)
            finally:
                self._local.busy = False
        return record


def install() -> None:
    """Cover the records of this process from now on."""
    before = logging.getLogRecordFactory()
    if not isinstance(before, CoveringFactory):
        logging.setLogRecordFactory(CoveringFactory(before))


def _cover(record: logging.LogRecord) -> None:
    cover = sources.latest().cover
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):
        # Whoever formats it says so.
        return
    covered = cover(text)
    if covered != text:
        record.msg, record.args = covered, None
    if record.exc_info and record.exc_info[0]:
        trace = _FORMATTER.formatException(record.exc_info)
        covered = cover(trace)
        if covered != trace:
            record.exc_text = covered
