"""Clocks of the test's own process that a test moves forward, without waiting."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.utils import timezone

_real_monotonic = time.monotonic
# Seconds that the monotonic clock of this process is ahead of the machine's.
_lead = 0.0


def _monotonic() -> float:
    return _real_monotonic() + _lead


class Clock:
    """Moves the clocks of this process forward.

    The wall clock goes back at the end of the test. The monotonic one keeps its lead for the rest
    of the process: threads that live longer than a test, such as that of the SSH connections,
    rely on it never going back, and would do nothing until it has caught up.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        time.monotonic = _monotonic
        began, now = _lead, timezone.now
        monkeypatch.setattr(timezone, "now", lambda: now() + timedelta(seconds=_lead - began))

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        global _lead
        _lead += seconds
