"""A limit on the waits that the edge holds for one caller: each looks at rows all the time.

A request that only waits is refused beyond it. One that has changed something is answered at once.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from reef_site.edge.held_responses import WAIT_TOOL

# For each token or session; the root token has no limit.
MAX_OPEN = 32
RETRY_SECONDS = 5
TOO_MANY = f"wait: {MAX_OPEN} waits of this caller are open; end some, or wait for several at once"


class OpenWaits:
    """Counts the open waits of each caller."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def place(self, caller: str) -> Iterator[bool]:
        """Count a wait until the end of the block; yield False, and do not, if it is too much."""
        if not caller:
            yield True
            return
        if self._open[caller] >= MAX_OPEN:
            yield False
            return
        self._open[caller] += 1
        try:
            yield True
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


def only_waits(method: str, path: str) -> bool:
    """Return whether a request changes nothing, so that it can be refused after its response."""
    return method in ("GET", "HEAD") or path.rstrip("/") == WAIT_TOOL
