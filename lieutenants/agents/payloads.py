"""Read values of an agent's JSON reports, which may be damaged."""

from __future__ import annotations

from typing import Any

Payload = dict[str, Any]


def parse_count(value: Any) -> int:
    """Return a count from the agent as an int; 0 for anything invalid."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if good and 0 <= value < 1 << 62 else 0


def text(payload: Payload, name: str) -> str:
    """Return a member as text; empty if it is missing."""
    return str(payload.get(name) or "")


def dicts(values: Any) -> list[Payload]:
    """Return the objects of a list; empty for anything else."""
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []
