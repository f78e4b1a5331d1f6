"""Times at which a machine that could not be reached is tried again."""

from __future__ import annotations

import random

FIRST_SECONDS, MAX_SECONDS = 0.5, 30.0
# A machine that has not answered for so long is tried less often, unless work waits for it.
LONG_AFTER_SECONDS, LONG_SECONDS = 300.0, 120.0
# After so many failures in a row a machine counts as dead.
DEAD_FAILURES = 3


class Backoff:
    """Pauses between attempts, with jitter: connections that broke together must not be opened
    together.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._since = 0.0
        # When the next attempt may begin.
        self.until = 0.0

    @property
    def is_dead(self) -> bool:
        """Return whether the next attempt will probably fail, too."""
        return self._failures >= DEAD_FAILURES

    def fail(self, now: float, *, is_wanted: bool) -> None:
        """Note a failure; `is_wanted` says whether work waits for the machine."""
        if not self._failures:
            self._since = now
        is_long = now - self._since > LONG_AFTER_SECONDS and not is_wanted
        most = LONG_SECONDS if is_long else MAX_SECONDS
        pause = min(most, FIRST_SECONDS * 2 ** min(self._failures, 10))
        self._failures += 1
        self.until = now + pause * random.uniform(0.5, 1.5)  # noqa: S311

    def hasten(self, now: float) -> None:
        """Shorten a long pause, since work waits for the machine now."""
        if self.until - now > MAX_SECONDS:
            self.until = now + MAX_SECONDS * random.uniform(0.1, 1.0)  # noqa: S311

    def succeed(self) -> None:
        """Note that the machine was reached."""
        self._failures = 0

    def end_pause(self) -> None:
        """Let the next attempt begin at once."""
        self.until = 0.0
