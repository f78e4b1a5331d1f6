"""The log of a delivery: one entry for each attempt."""

from __future__ import annotations

from reef_site.common import clock
from reef_site.common.webhooks import Answer

MAX_LOG = 10


def entry(problem: str, answer: Answer | None = None, seconds: float = 0.0) -> dict[str, object]:
    """Return what the log says about one attempt."""
    return {
        "at": clock.format_timestamp(clock.now()),
        "code": (answer and answer.code) or None,
        "answer": answer.text if answer else "",
        "problem": problem,
        "milliseconds": round(seconds * 1000),
    }
