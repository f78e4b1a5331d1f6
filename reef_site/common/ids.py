"""Ids of new rows."""

from __future__ import annotations

from ulid import ULID


def new_ulid() -> str:
    """Return an id of 26 capitals and digits that sorts by the time it was made."""
    return str(ULID())
