"""Requests of each token in the current minute, over all web processes.

A process counts in memory and adds its count to the shared row only after each twentieth part of
the limit. So a token with few requests costs no write at all, and each process lets at most a
twentieth too much pass.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass, field

from django.db import Error as DatabaseError
from django.db import IntegrityError, transaction
from django.db.models import F

from reef_site.accounts.models import RequestCount

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 60
PARTS = 20
KEPT_WINDOWS = 5


@dataclass
class _Count:
    """Requests of one token: those of all processes when last read, and ours since then."""

    shared: int = 0
    unwritten: int = 0


@dataclass
class _Window:
    number: int = 0
    counts: dict[str, _Count] = field(default_factory=dict)


_lock = threading.Lock()
_window = _Window()


def seconds_to_wait(key: str, limit: int) -> int:
    """Count a request of this token; return 0, or after how many seconds it may come again.

    Refused requests are not counted.
    """
    now = time.time()
    number = int(now // WINDOW_SECONDS)
    with _lock:
        if number != _window.number:
            _window.number, _window.counts = number, {}
        count = _window.counts.setdefault(key, _Count())
        if count.shared + count.unwritten >= limit:
            return max(1, math.ceil((number + 1) * WINDOW_SECONDS - now))
        count.unwritten += 1
        if count.unwritten >= max(1, limit // PARTS):
            _share(key, number, count)
    return 0


def forget_old() -> None:
    """Delete the counts of earlier windows."""
    oldest = int(time.time() // WINDOW_SECONDS) - KEPT_WINDOWS
    RequestCount.objects.filter(window__lt=oldest).delete()


def forget() -> None:
    """Forget what this process has counted, for example after a change of the database."""
    with _lock:
        _window.counts.clear()


def _share(key: str, number: int, count: _Count) -> None:
    """Add our count to the row, and read that of all processes."""
    try:
        count.shared = _add(key, number, count.unwritten)
        count.unwritten = 0
    except DatabaseError:
        # Requests must not fail because they cannot be counted.
        logger.exception("cannot count the requests of %s", key)


def _add(key: str, number: int, more: int) -> int:
    row = RequestCount.objects.filter(key=key, window=number)
    if not row.update(count=F("count") + more):
        try:
            with transaction.atomic():
                RequestCount.objects.create(key=key, window=number, count=more)
        except IntegrityError:
            # Another process was faster.
            row.update(count=F("count") + more)
    return row.values_list("count", flat=True).get()
