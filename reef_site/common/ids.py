"""Ids of new rows, and new secrets."""

from __future__ import annotations

import secrets

from ulid import ULID


def new_ulid() -> str:
    """Return an id of 26 capitals and digits that sorts by the time it was made."""
    return str(ULID())


def new_secret(prefix: str = "") -> str:
    """Return `prefix` and 43 letters, digits, dashes and underscores: 256 random bits."""
    return prefix + secrets.token_urlsafe(32)
