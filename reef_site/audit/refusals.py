"""Repeated refusals: equal ones of a minute share one row with a count.

A flood of them costs a row a minute for each actor, address, route, permission and status, and a
write a second.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import Error as DatabaseError
from django.db import transaction
from django.db.models import F

from reef_site.audit.models import Action, Record
from reef_site.common.eventlog import recording

WRITE_SECONDS = 1.0
MAX_OPEN_ROWS = 5000
FORBIDDEN = 403

Key = tuple[str, ...]


@dataclass
class Row:
    """A row of this minute, and the count that is not written yet."""

    pk: int
    unwritten: int = 0
    last_at: datetime | None = None


@dataclass
class _Minute:
    """The rows of the current minute that this process knows."""

    start: datetime | None = None
    rows: dict[Key, Row] = field(default_factory=dict)
    written_at: float = 0.0


_lock = threading.RLock()
_minute = _Minute()


def add(row: Record) -> bool:
    """Insert the row, or count it in an equal one of this minute; return True if inserted."""
    start = row.at.replace(second=0, microsecond=0)
    with _lock:
        if start != _minute.start or len(_minute.rows) >= MAX_OPEN_ROWS:
            write()
            _minute.start = start
            _minute.rows.clear()
        key = _key(row)
        open_row = _minute.rows.get(key)
        if open_row is None:
            open_row = _find(row, start)
            is_new = open_row is None
            if open_row is None:
                _save(row)
                open_row = Row(row.pk)
            _minute.rows[key] = open_row
            if is_new:
                return True
        open_row.unwritten += row.count
        open_row.last_at = row.at
    write_if_due()
    return False


def _save(row: Record) -> None:
    """Insert the row. The refusal of a permission is an event, too, once for each row."""
    with transaction.atomic():
        row.save()
        if row.action == Action.REFUSED and row.status == FORBIDDEN:
            detail = {"method": row.method, "route": row.route, "reason": row.reason}
            if row.permission:
                detail["permission"] = row.permission
            recording.record(
                "permission.refused", row.target, actor=row.actor, detail=detail, vm_id=""
            )


def write_if_due() -> None:
    """Write the counts unless that was done within the last second; called for each request."""
    if time.monotonic() - _minute.written_at >= WRITE_SECONDS:
        write()


def write() -> None:
    """Write the counts that this process has not written yet."""
    with _lock:
        _minute.written_at = time.monotonic()
        for open_row in _minute.rows.values():
            if open_row.unwritten:
                count = F("count") + open_row.unwritten
                Record.objects.filter(pk=open_row.pk).update(count=count, last_at=open_row.last_at)
                open_row.unwritten = 0


def forget() -> None:
    """Forget the rows of this minute, for example after a change of the database."""
    with _lock:
        _minute.rows.clear()


def _key(row: Record) -> Key:
    target = row.target if row.action == Action.SECRET else ""
    place = (row.address, row.method, row.route, str(row.status))
    return (row.action, row.actor, *place, row.permission, target)


def _find(row: Record, start: datetime) -> Row | None:
    """Return the equal row that another process has inserted, if any."""
    same = Record.objects.filter(
        at__gte=start,
        at__lt=start + timedelta(minutes=1),
        action=row.action,
        actor=row.actor,
        address=row.address,
        method=row.method,
        route=row.route,
        status=row.status,
        permission=row.permission,
    )
    if row.action == Action.SECRET:
        same = same.filter(target=row.target)
    found = same.values_list("pk", flat=True).first()
    return None if found is None else Row(found)


@atexit.register
def _write_at_exit() -> None:
    if any(open_row.unwritten for open_row in _minute.rows.values()):
        # The database may have been stopped together with this process.
        with contextlib.suppress(DatabaseError):
            write()
