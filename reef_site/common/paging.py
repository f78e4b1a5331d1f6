"""Lists that are read page by page."""

from __future__ import annotations

from typing import TypeVar

from django.db.models import Model, QuerySet

Row = TypeVar("Row", bound=Model)


def take_page(rows: QuerySet[Row], limit: int) -> tuple[list[Row], bool]:
    """Return the first `limit` rows, and whether there are more."""
    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit
