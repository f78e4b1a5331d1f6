"""Waiting for a condition, with a limit. No test sleeps for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Return the value of `condition` once it is true. Raises AssertionError after a time limit."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {condition}")
