"""From a wish to a finished snapshot: rows are claimed, files written, what broke off is tidied.

`take` and `tick` are to be called outside of transactions: the file is read from what is
committed.
"""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction

from reef_site.common import clock
from reef_site.common.errors import NotFound
from vmtree import authority
from vmtree.snapshot_models import LEASE, Snapshot, State, Why
from vmtree.snapshots import checking, files, finding, keeping, writing
from vmtree.snapshots.writing import SnapshotFailed, Written

logger = logging.getLogger(__name__)

# When one that failed is tried again.
RETRY = timedelta(minutes=5)
CLOCK = "the clock"


@dataclass(frozen=True)
class Taken:
    """A new snapshot, and how many old ones made room for it."""

    snapshot: Snapshot
    pruned: int


def find(snapshot_id: int) -> Snapshot:
    """The snapshot of this number, or NotFound."""
    snapshot = Snapshot.objects.filter(pk=snapshot_id).first()
    if snapshot is None:
        raise NotFound("snapshot not found")
    if _is_orphaned(snapshot):
        _settle(snapshot)
        snapshot.refresh_from_db()
    return snapshot


def listing() -> list[Snapshot]:
    """All, newest first, each as its file is now: missing and changed ones are named."""
    _settle_orphans()
    return [checking.look_at(snapshot) for snapshot in Snapshot.objects.all()]


def take(*, by: object, why: Why = Why.ASKED) -> Taken:
    """Write a snapshot now. Raises SnapshotFailed, Forbidden."""
    snapshot = make(by=by, why=why)
    return Taken(snapshot, keeping.prune())


def make(*, by: object, why: Why) -> Snapshot:
    """Write a snapshot now and remove none. Raises SnapshotFailed, Forbidden."""
    authority.check(by, "command", None)
    snapshot = _enlist(why, by)
    _fill(snapshot)
    return snapshot


def tick() -> Snapshot | None:
    """The snapshot of this hour, if nobody has made it yet; hours that were missed stay missed.

    Also tidies what was cut off, and looks through one of the older files.
    """
    recover()
    snapshot = _claim_hour(clock.now())
    if snapshot:
        _fill(snapshot)
        keeping.prune()
        checking.verify_oldest()
    return snapshot


def recover() -> None:
    """Say of each snapshot whose writer died what became of it, and find files without a row."""
    for snapshot in Snapshot.objects.abandoned(clock.now()):
        _settle(snapshot)
    _settle_orphans()
    files.discard_old_drafts()
    finding.adopt()


def _settle_orphans() -> None:
    for snapshot in Snapshot.objects.filter(state=State.WRITING):
        if _is_orphaned(snapshot):
            _settle(snapshot)


def _is_orphaned(snapshot: Snapshot) -> bool:
    """Whether its writer, a process of this machine, is gone."""
    if snapshot.state != State.WRITING or snapshot.host != settings.HOST:
        return False
    if files.is_written(snapshot.file):
        return False
    # It may have come to its end just now, or somebody else has taken it over.
    same = Snapshot.objects.filter(pk=snapshot.pk, file=snapshot.file, state=State.WRITING)
    return same.exists()


def _settle(snapshot: Snapshot) -> None:
    """Say what became of one whose writer died."""
    if snapshot.host == settings.HOST and files.path_of(snapshot.file).exists():
        # Its file got its name, so it is whole; only the row does not know it yet.
        _finish_abandoned(snapshot)
    else:
        if snapshot.host == settings.HOST:
            files.discard(snapshot.file)
        _fail(snapshot, "it was cut off while it was written: its writer is gone", cut_off=True)


# -- claims --------------------------------------------------------------------------------------


def _enlist(why: Why, by: object, hour: datetime | None = None) -> Snapshot:
    """A row for a new snapshot, with us as its writer. IntegrityError if the hour has one."""
    now, name = _begin_next()
    try:
        with transaction.atomic(durable=True):
            return Snapshot.objects.create(
                file=name,
                why=why,
                made_by=str(by)[:200],
                hour=hour,
                host=settings.HOST,
                began_at=now,
                leased_until=now + LEASE,
            )
    except BaseException:
        files.end(name)
        raise


def _free_moment(now: datetime) -> datetime:
    """The next moment that no file is named after."""
    while Snapshot.objects.filter(file=files.name_of(now)).exists():
        now += timedelta(milliseconds=1)
    return now


def _begin_next() -> tuple[datetime, str]:
    """A moment with a free name that shows us as its writer, before any row says that there is one.

    So whoever sees the row finds its writer alive.
    """
    now = _free_moment(clock.now())
    while not files.begin(files.name_of(now)):
        now = _free_moment(now + timedelta(milliseconds=1))
    return now, files.name_of(now)


def _claim_hour(now: datetime) -> Snapshot | None:
    """The row of this hour with us as its writer; None if it is made, or somebody is at it."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    known = Snapshot.objects.filter(hour=hour).first()
    if known:
        return _take_over(known, now)
    try:
        return _enlist(Why.HOURLY, CLOCK, hour)
    except IntegrityError:
        # The other one of two workers was sooner.
        return None


def _take_over(known: Snapshot, now: datetime) -> Snapshot | None:
    """The row of an attempt that failed, after a pause, with a new file name."""
    failed = Snapshot.objects.filter(pk=known.pk, state=State.FAILED)
    # The lease of one that failed is the pause before the next attempt.
    if not failed.free(now, RETRY).exists():
        return None
    now, name = _begin_next()
    if not failed.acquire(
        known.pk,
        LEASE,
        longest=RETRY,
        file=name,
        host=settings.HOST,
        state=State.WRITING,
        began_at=now,
        trouble="",
    ):
        files.end(name)
        return None
    known.refresh_from_db()
    return known


# -- writing -------------------------------------------------------------------------------------


def _fill(snapshot: Snapshot) -> None:
    """Write the file of a claimed row. Raises SnapshotFailed, and says why in the row."""
    name = snapshot.file
    try:
        _write(snapshot, name)
    finally:
        files.end(name)


def _write(snapshot: Snapshot, name: str) -> None:
    try:
        written = writing.write(files.draft_of(name), why=snapshot.why, made_by=snapshot.made_by)
        files.publish(name)
    except (SnapshotFailed, OSError, sqlite3.Error) as error:
        files.discard(name)
        _fail(snapshot, str(error))
        raise SnapshotFailed(f"no snapshot was made: {error}") from error
    _finish(snapshot, written)


def _finish(snapshot: Snapshot, written: Written) -> None:
    """The file is there; now the row says so, unless somebody took the claim over."""
    name, facts = snapshot.file, checking.facts_of(files.path_of(snapshot.file))
    mine = Snapshot.objects.filter(pk=snapshot.pk, file=name, state=State.WRITING)
    done = mine.update(
        **facts, state=State.READY, at=written.at, counts=written.counts, leased_until=None
    )
    snapshot.refresh_from_db()
    # Of two who find what a dead writer left one is sooner, with the same file.
    if not done and (snapshot.file, snapshot.state) != (name, State.READY):
        files.discard(name)
        raise SnapshotFailed("it took too long, and somebody else makes it now")


def _finish_abandoned(snapshot: Snapshot) -> None:
    path = files.path_of(snapshot.file)
    try:
        written = checking.read_meta(path)
        with files.opened(path) as file:
            writing.check(file, written.counts)
        _finish(snapshot, written)
    except (SnapshotFailed, OSError, sqlite3.Error, ValueError, KeyError) as error:
        files.discard(snapshot.file)
        _fail(snapshot, f"it was cut off: {error}", cut_off=True)


def _fail(snapshot: Snapshot, reason: str, *, cut_off: bool = False) -> None:
    """Write down that there is no snapshot; one of an hour is tried again later."""
    logger.error("snapshot %s: %s", snapshot.file, reason)
    now = clock.now()
    # What was cut off may be tried again at once; what failed may fail again.
    again = now - RETRY if cut_off else now + RETRY
    mine = Snapshot.objects.filter(pk=snapshot.pk, file=snapshot.file, state=State.WRITING)
    mine.update(state=State.FAILED, trouble=reason[:500], leased_until=again)
