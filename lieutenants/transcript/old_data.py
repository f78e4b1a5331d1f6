"""Shortens the data of old tool calls and results; the texts of transcripts stay."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast, Length

from lieutenants.models import Entry, Process
from reef_site.common import clock
from reef_site.common.retention import in_batches

# Data with fewer characters of JSON is not shortened, and shortened data has fewer.
MAX_CHARS = 4000
_TOOLS = (Entry.Kind.TOOL_CALL, Entry.Kind.TOOL_RESULT)
_MAX_TEXTS, _MAX_ITEMS, _MAX_KEY = (200, 40), 20, 100
_MAX_PROCESSES = 200


def shorten_old() -> int:
    """Shorten the data of processes that ended long ago; return how many entries.

    Each process is done once, so a tick reads no entry that an earlier one has read.
    """
    if not settings.TOOL_DATA_DAYS:
        return 0
    oldest = clock.now() - timedelta(days=settings.TOOL_DATA_DAYS)
    # A journal that may be read again is compared with its rows.
    due = Process.objects.filter(ended_at__lt=oldest, is_data_short=False, is_frozen=False)
    count = 0
    for key in due.order_by("ended_at").values_list("pk", flat=True)[:_MAX_PROCESSES]:
        long = _long_entries(key)
        count += in_batches(long, _shorten)
        if not long.exists():
            Process.objects.filter(pk=key).update(is_data_short=True)
        else:
            # The next tick goes on.
            break
    return count


def _long_entries(process: str) -> QuerySet[Entry]:
    rows = Entry.objects.filter(process=process, kind__in=_TOOLS, final=True).order_by("pk")
    return rows.annotate(chars=Length(Cast("data", TextField()))).filter(chars__gt=MAX_CHARS)


def _shorten(rows: QuerySet[Entry]) -> None:
    short = {row.pk: shortened(row.data) for row in rows.only("data")}
    with transaction.atomic():
        for key, data in short.items():
            Entry.objects.filter(pk=key).update(data=data)


def shortened(data: Any) -> Any:
    """Return data of the same shape with long texts and lists cut, below MAX_CHARS in all."""
    for limit in _MAX_TEXTS:
        short = _cut(data, limit)
        if len(json.dumps(short)) < MAX_CHARS:
            return short
    # So many or so deeply nested values are no use without the rest.
    return {"arguments": None} if isinstance(data, dict) and "arguments" in data else {}


def _cut(value: Any, limit: int) -> Any:
    if isinstance(value, str) and len(value) > limit:
        return f"{value[:limit]}… ({len(value) - limit:,} more characters were deleted)"
    if isinstance(value, list):
        return [_cut(each, limit) for each in value[:_MAX_ITEMS]]
    if isinstance(value, dict):
        return {key[:_MAX_KEY]: _cut(value[key], limit) for key in list(value)[:_MAX_ITEMS]}
    return value
