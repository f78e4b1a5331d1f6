"""Waits that outlast one request, with progress on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from reef_site.client.errors import Refused, TimedOut, Unreachable
from reef_site.client.http import Api
from reef_site.client.output import Progress

Json = dict[str, Any]
# The server holds a response for a minute at the latest.
ROUND_SECONDS = 20
PAUSE_SECONDS = 1.0
# Statuses of a server that is restarting or busy.
PASSING = frozenset({429, 502, 503, 504})


def wait_for(api: Api, conditions: Json, *, seconds: int) -> Json:
    """Call `reef_wait` until its conditions are met; return the result.

    Raises TimedOut, Refused, Unreachable.
    """

    # What the server wants to be told to go on without a gap, such as the number of an event.
    again: Json = {}

    def ask(round_seconds: int) -> Json:
        given = {**conditions, **again, "seconds": round_seconds}
        result = api.call("reef_wait", given, seconds=round_seconds + 15)
        again.update(result["details"].get("again", {}))
        return result

    return until(ask, seconds)


def until(ask: Callable[[int], Json], seconds: int) -> Json:
    """Call `reef_wait` again and again, also while reef is restarted. Raises TimedOut."""
    end, progress, was_reached = time.monotonic() + seconds, Progress(), False
    progress.show("waiting")
    try:
        while True:
            began = time.monotonic()
            left = max(0.0, end - began)
            try:
                result = ask(min(ROUND_SECONDS, int(left)))
                was_reached = True
            except (Unreachable, Refused) as error:
                passes = not isinstance(error, Refused) or error.code in PASSING
                if not was_reached or not passes or left <= 0:
                    raise
                progress.show(f"waiting: {error}")
                time.sleep(min(PAUSE_SECONDS, left))
                continue
            if result["details"]["done"]:
                return result
            if end - time.monotonic() <= 0:
                raise TimedOut(_text(result))
            progress.show(_text(result).replace("Not yet: ", "waiting: "))
            # Without an edge in front, reef responds at once.
            if time.monotonic() - began < PAUSE_SECONDS:
                time.sleep(min(PAUSE_SECONDS, max(0.0, end - time.monotonic())))
    finally:
        progress.end()


def _text(result: Json) -> str:
    return str(result["text"]).partition(" Call reef_wait ")[0]
