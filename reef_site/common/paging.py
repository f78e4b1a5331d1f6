"""Lists that are read page by page."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.models import Model, QuerySet

Row = TypeVar("Row", bound=Model)


def take_page(rows: QuerySet[Row], limit: int) -> tuple[list[Row], bool]:
    """Return the first `limit` rows, and whether there are more."""
    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit


def take_page_by_key(
    rows: QuerySet[Row], limit: int, cursor: Any, *, newest_first: bool = False
) -> tuple[list[Row], Any]:
    """Return the page behind `cursor` in the order of primary keys, and the next cursor.

    The first page has no cursor, and the last one no next.
    """
    if cursor:
        rows = rows.filter(**{"pk__lt" if newest_first else "pk__gt": cursor})
    page, more = take_page(rows.order_by("-pk" if newest_first else "pk"), limit)
    return page, page[-1].pk if more else None
