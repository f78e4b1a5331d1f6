"""Waiting for a condition, with a limit. No test sleeps for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# Limits of waiting are for a fast and idle machine; each is multiplied by this. Only a test that
# fails waits for so long.
PATIENCE = 4
FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.1


def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Return the value of `condition` once it is true. Raises AssertionError after a time limit.

    The limit is `PATIENCE` times `seconds`.

    The longer it takes, the longer are the pauses: requests in a tight loop would take the
    processors from what is waited for.
    """
    began = time.monotonic()
    limit = seconds * PATIENCE
    while (waited := time.monotonic() - began) < limit:
        if value := condition():
            return value
        time.sleep(min(max(FIRST_PAUSE, waited / 20), LONGEST_PAUSE))
    raise AssertionError(f"not within {limit} s: {condition}")
