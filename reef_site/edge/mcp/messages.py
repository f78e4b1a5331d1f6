"""Limits of messages. The SDK parses them in the edge's only thread, which also has heartbeats."""

from __future__ import annotations

from django.conf import settings

from reef_site.edge.request_bodies import MAX_BODY

# More values than any call of a tool has. A megabyte of empty lists would take half a second.
MAX_VALUES = 20_000
TOO_MANY = f"body: has more than {MAX_VALUES:,} values"


def max_bytes() -> int:
    """Return the size of the largest body: that of the longest message with escaped characters."""
    return min(MAX_BODY, 4 * settings.MAX_MESSAGE_BYTES)


def problem_of(body: bytes) -> str:
    """Return why a body is not parsed; empty if it may be.

    Signs of JSON are counted outside of texts, without building anything.
    """
    without_escapes = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two for each text, and each value may have a name.
    if without_escapes.count(b'"') > 4 * MAX_VALUES:
        return TOO_MANY
    outside = b"".join(without_escapes.split(b'"')[::2])
    return TOO_MANY if sum(map(outside.count, (b",", b"[", b"{"))) >= MAX_VALUES else ""
