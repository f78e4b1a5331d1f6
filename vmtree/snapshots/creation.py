"""Takes snapshots: claims rows, writes files, cleans up after interrupted writers.

Call `take` and `tick` outside of transactions: the file is read from committed rows.
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
from reef_site.common.eventlog import recording
from vmtree import permissions
from vmtree.snapshot_models import LEASE, Snapshot, State, Why
from vmtree.snapshots import adoption, drafts, files, retention, verification
from vmtree.snapshots.drafts import SnapshotFailed, Written

logger = logging.getLogger(__name__)

# Delay before a failed snapshot is retried.
RETRY = timedelta(minutes=5)
CLOCK = "the clock"


@dataclass(frozen=True)
class Taken:
    """A new snapshot, and the number of old ones that were pruned."""

    snapshot: Snapshot
    pruned: int


def find(snapshot_id: int) -> Snapshot:
    """Return the snapshot with this id. Raises NotFound."""
    snapshot = Snapshot.objects.filter(pk=snapshot_id).first()
    if snapshot is None:
        raise NotFound("snapshot not found")
    if _is_orphaned(snapshot):
        _resolve(snapshot)
        snapshot.refresh_from_db()
    return snapshot


def listing() -> list[Snapshot]:
    """Return all snapshots, newest first, after a quick check of each file."""
    _resolve_orphans()
    return verification.quick_check_all(Snapshot.objects.all())


def take(*, by: object, why: Why = Why.ASKED) -> Taken:
    """Take a snapshot now and prune old ones. Raises SnapshotFailed, Forbidden."""
    snapshot = create(by=by, why=why)
    return Taken(snapshot, retention.prune())


def create(*, by: object, why: Why) -> Snapshot:
    """Take a snapshot now, without pruning. Raises SnapshotFailed, Forbidden."""
    permissions.check(by, "command", None)
    snapshot = _create_row(why, by)
    _write_file(snapshot)
    return snapshot


def tick() -> Snapshot | None:
    """Take the snapshot of this hour if there is none yet; missed hours stay missed.

    Also cleans up after interrupted writers, and verifies one of the older files.
    """
    recover()
    snapshot = _claim_hour(clock.now())
    if snapshot:
        _write_file(snapshot)
        retention.prune()
        verification.verify_oldest()
    return snapshot


def recover() -> None:
    """Finish or fail the snapshots of dead writers, and import files without a row."""
    for snapshot in Snapshot.objects.abandoned(clock.now()):
        _resolve(snapshot)
    _resolve_orphans()
    files.discard_old_drafts()
    adoption.adopt()


def _resolve_orphans() -> None:
    for snapshot in Snapshot.objects.filter(state=State.WRITING):
        if _is_orphaned(snapshot):
            _resolve(snapshot)


def _is_orphaned(snapshot: Snapshot) -> bool:
    """Return whether its writer, a process of this machine, is gone."""
    if snapshot.state != State.WRITING or snapshot.host != settings.HOST:
        return False
    if files.is_being_written(snapshot.file):
        return False
    # It may have finished just now, or another process took it over.
    same = Snapshot.objects.filter(pk=snapshot.pk, file=snapshot.file, state=State.WRITING)
    return same.exists()


def _resolve(snapshot: Snapshot) -> None:
    """Finish or fail a snapshot whose writer died."""
    if snapshot.host == settings.HOST and files.path_of(snapshot.file).exists():
        # A file with its final name is complete; only the row was not updated yet.
        _finish_abandoned(snapshot)
    else:
        if snapshot.host == settings.HOST:
            files.discard(snapshot.file)
        _fail(snapshot, "it was cut off while it was written: its writer is gone", cut_off=True)


# -- claims --------------------------------------------------------------------------------------


def _create_row(why: Why, by: object, hour: datetime | None = None) -> Snapshot:
    """Create a row with this process as its writer. Raises IntegrityError if the hour has one."""
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
        files.end_writing(name)
        raise


def _free_moment(now: datetime) -> datetime:
    """Return the next time whose file name is not used yet."""
    while Snapshot.objects.filter(file=files.name_of(now)).exists():
        now += timedelta(milliseconds=1)
    return now


def _begin_next() -> tuple[datetime, str]:
    """Mark a free file name as being written by this process; return its time and the name.

    The mark comes before the row, so that whoever reads the row finds its writer alive.
    """
    now = _free_moment(clock.now())
    while not files.begin_writing(files.name_of(now)):
        now = _free_moment(now + timedelta(milliseconds=1))
    return now, files.name_of(now)


def _claim_hour(now: datetime) -> Snapshot | None:
    """Return this hour's row with this process as writer; None if it is done or in progress."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    known = Snapshot.objects.filter(hour=hour).first()
    if known:
        return _take_over(known, now)
    try:
        return _create_row(Why.HOURLY, CLOCK, hour)
    except IntegrityError:
        # Another worker claimed it first.
        return None


def _take_over(known: Snapshot, now: datetime) -> Snapshot | None:
    """Claim the row of a failed attempt after a delay, with a new file name; None if too early."""
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
        files.end_writing(name)
        return None
    known.refresh_from_db()
    return known


# -- writing -------------------------------------------------------------------------------------


def _write_file(snapshot: Snapshot) -> None:
    """Write the file of a claimed row. Raises SnapshotFailed, and records the reason in the row."""
    name = snapshot.file
    try:
        _write_and_publish(snapshot, name)
    finally:
        files.end_writing(name)


def _write_and_publish(snapshot: Snapshot, name: str) -> None:
    try:
        written = drafts.write(files.draft_of(name), why=snapshot.why, made_by=snapshot.made_by)
        files.publish(name)
    except (SnapshotFailed, OSError, sqlite3.Error) as error:
        files.discard(name)
        _fail(snapshot, str(error))
        raise SnapshotFailed(f"no snapshot was made: {error}") from error
    _finish(snapshot, written)


def _finish(snapshot: Snapshot, written: Written) -> None:
    """Mark the row as ready, unless another process took the claim over."""
    name, facts = snapshot.file, verification.file_columns(files.path_of(snapshot.file))
    mine = Snapshot.objects.filter(pk=snapshot.pk, file=name, state=State.WRITING)
    with transaction.atomic():
        done = mine.update(
            **facts, state=State.READY, at=written.at, counts=written.counts, leased_until=None
        )
        if done:
            _record("snapshot.taken", snapshot, why=snapshot.why)
    snapshot.refresh_from_db()
    # Two processes may finish the work of a dead writer at once, with the same file.
    if not done and (snapshot.file, snapshot.state) != (name, State.READY):
        files.discard(name)
        raise SnapshotFailed("it took too long, and somebody else makes it now")


def _finish_abandoned(snapshot: Snapshot) -> None:
    path = files.path_of(snapshot.file)
    try:
        written = verification.read_meta(path)
        with files.opened(path) as file:
            drafts.check(file, written.counts)
        _finish(snapshot, written)
    except (SnapshotFailed, OSError, sqlite3.Error, ValueError, KeyError) as error:
        files.discard(snapshot.file)
        _fail(snapshot, f"it was cut off: {error}", cut_off=True)


def _fail(snapshot: Snapshot, reason: str, *, cut_off: bool = False) -> None:
    """Mark the row as failed; an hourly snapshot is retried later."""
    logger.error("snapshot %s: %s", snapshot.file, reason)
    now = clock.now()
    # An interrupted attempt may be retried at once; a failed one may fail again.
    again = now - RETRY if cut_off else now + RETRY
    mine = Snapshot.objects.filter(pk=snapshot.pk, file=snapshot.file, state=State.WRITING)
    with transaction.atomic():
        if mine.update(state=State.FAILED, trouble=reason[:500], leased_until=again):
            _record("snapshot.failed", snapshot, reason=reason[:500])


def _record(kind: str, snapshot: Snapshot, **detail: str) -> None:
    recording.record(kind, snapshot.file, actor=snapshot.made_by, detail=detail, vm_id="")
