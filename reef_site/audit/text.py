"""Sanitising of untrusted text for logs and pages."""

from __future__ import annotations


def printable(text: str, limit: int) -> str:
    """Return the text with control and direction characters escaped, cut to `limit` characters."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text[:limit]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
