"""Retention: the newest 24 of each kind, one a day for 30 days, and pinned ones for ever."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta

from django.conf import settings
from django.db import transaction

from reef_site.common import clock
from reef_site.common.eventlog import recording
from vmtree import permissions
from vmtree.snapshot_models import Snapshot, State
from vmtree.snapshots import files

KEEP_NEWEST = 24
KEEP_DAILY = timedelta(days=30)
# Failed snapshots stay visible for this long.
KEEP_FAILED = timedelta(days=7)


def pin(snapshot: Snapshot, *, pinned: bool, by: object) -> Snapshot:
    """Pin or unpin a snapshot. Raises Forbidden."""
    permissions.check(by, "command", None)
    snapshot.pinned = pinned
    with transaction.atomic():
        snapshot.save(update_fields=["pinned"])
        kind = "snapshot.pinned" if pinned else "snapshot.unpinned"
        recording.record(kind, snapshot.file, actor=by, vm_id="")
    return snapshot


def prune() -> int:
    """Delete snapshots that retention no longer covers. Return how many there were."""
    now = clock.now()
    _delete_failed(now)
    rows = list(Snapshot.objects.written().order_by("-began_at", "-id"))
    kept = retained(rows, now)
    pruned = [row for row in rows if row.pk not in kept]
    return sum(_remove(row) for row in pruned)


def retained(rows: list[Snapshot], now: datetime) -> set[int]:
    """Return the keys of the rows to retain; `rows` are newest first."""
    keep, by_kind, days = set(), Counter[str](), set[date]()
    for row in rows:
        recent = row.began_at > now - KEEP_DAILY
        good = row.state == State.READY
        if good and by_kind[row.why] < KEEP_NEWEST:
            by_kind[row.why] += 1
            keep.add(row.pk)
        # Damaged ones are retained for inspection, but do not count as the day's snapshot.
        if recent and (not good or row.began_at.date() not in days):
            keep.add(row.pk)
        if good:
            days.add(row.began_at.date())
        if row.pinned:
            keep.add(row.pk)
    return keep


def _remove(row: Snapshot) -> bool:
    """Delete row and file. Return False if it was pinned meanwhile, or its file lies elsewhere."""
    if row.host != settings.HOST and not files.path_of(row.file).exists():
        return False
    # The row first: a file without a row does no harm.
    with transaction.atomic():
        removed, _ = Snapshot.objects.filter(pk=row.pk, pinned=False).delete()
        if removed:
            recording.record("snapshot.deleted", row.file, actor="retention", vm_id="")
    if removed:
        files.discard(row.file)
    return bool(removed)


def _delete_failed(now: datetime) -> None:
    old = Snapshot.objects.filter(state=State.FAILED, began_at__lt=now - KEEP_FAILED)
    old.delete()
