"""Limit on the writes of one token that the edge does itself.

Beyond its limit a minute, a token's requests are passed on to Django, which counts them, too, and
refuses them beyond the same limit.
"""

from __future__ import annotations

import time
from collections import Counter

from django.conf import settings

WINDOW_SECONDS = 60


class WriteLimits:
    """Counts of this minute, on the event loop of one edge."""

    def __init__(self) -> None:
        self._window = 0
        self._counts: Counter[str | None] = Counter()

    def allow(self, digest: str | None) -> bool:
        """Count a write; return False beyond the limit. The root token has None as its hash."""
        window = int(time.monotonic() // WINDOW_SECONDS)
        if window != self._window:
            self._window, self._counts = window, Counter()
        limit = settings.RATE_LIMIT if digest else settings.ROOT_RATE_LIMIT
        if limit and self._counts[digest] >= limit:
            return False
        self._counts[digest] += 1
        return True
