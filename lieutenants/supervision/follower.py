"""Commit journals to rows: one loop for all sessions of this host, in the Celery worker.

Each pass reads new journal records, applies them and commits them together with the journals' new
offsets in one transaction. `Watch` handles everything that depends on time, `Outbox` sends pending
commands.

There is one follower per host: the holder of the lock file. A worker that is killed releases it at
once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import redis
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import OperationalError, close_old_connections, connections, transaction

from lieutenants.exceptions import NotTheFollower, ProgressLost, TransportError
from lieutenants.hosts import lock, strays
from lieutenants.hosts import services as hosts
from lieutenants.messages.outbox import Outbox
from lieutenants.models import Process
from lieutenants.questions.delivery import ReplyDesk
from lieutenants.sessions.session import Session
from lieutenants.sessions.write_batch import WriteBatch, check_still_ours, save_progress
from lieutenants.supervision import journal, journal_gaps
from lieutenants.supervision.clock_jumps import ClockMonitor
from lieutenants.supervision.transports import transport_of
from lieutenants.supervision.watchdog import SKIP_SECONDS, Watchdog
from lieutenants.transcript.screening import held_from
from reef_site.common import events, locks
from versconfig.screening import sources

logger = logging.getLogger(__name__)

PASS_SECONDS = 0.1  # at most one transaction in this time
READ_SECONDS = 0.03  # how often the journals of working sessions are read
IDLE_READ_SECONDS = 0.25  # how often the journals of idle sessions are read
REFRESH_SECONDS = 1.0  # how often rows are read without an event
SESSION_BYTES = 1 << 20  # at most from one journal in one pass
# With less than this left, a pass ends: what it could still read is hardly a record.
LEAST_READ_BYTES = 64 << 10
PASS_BYTES = 2 << 20  # at most from all journals: a pass holds the database's write lock
SESSION_RECORDS, PASS_RECORDS = 2000, 4000  # the same for their records, which may be short
KEPT_BYTES = 32 << 20  # of a journal, kept behind the committed offset
SHORTEN_BYTES = 8 << 20  # smallest part of a journal that is released at a time
RETRY_SECONDS = 1.0  # delay after a failure


class Follower:
    """The follower loop. Runs in its own thread until `stop`."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.outbox = Outbox()
        self.replies = ReplyDesk()
        self._skipped_until: dict[str, float] = {}
        self.watchdog = Watchdog(self.sessions, self._skipped_until)
        self.clock = ClockMonitor()
        self.stopping = threading.Event()
        self._wakeup = threading.Event()
        self._refreshed_at = -REFRESH_SECONDS
        self._idle_read_at = 0.0
        self._first_index = 0
        # After a failure each session gets its own transaction for one pass, to find the culprit.
        self._isolate_sessions = False
        self._lock = locks.FileLock(settings.RUN_DIR / "follower.lock")
        self._lock_checked_at = 0.0
        self._rival = ""
        self._listener: threading.Thread | None = None

    def run(self) -> None:
        """Follow until stopped. After an error, log it and start over from the rows."""
        try:
            while not self.stopping.is_set():
                try:
                    self._follow_once_free()
                except Exception:
                    # This thread is the worker's only follower, and the worker continues without
                    # it.
                    logger.exception("the follower failed; trying again")
                    self._forget()
                    self.stopping.wait(RETRY_SECONDS)
        finally:
            self.outbox.close()
            connections.close_all()

    def _follow_once_free(self) -> None:
        """Wait for the locks, follow while they are held, and release them."""
        try:
            if not self._wait_for_lock():
                return
            with lock.hold_identity_lock(self.stopping) as alone:
                if alone:
                    self._start_listening()
                    self._follow_while_locked()
        finally:
            self._lock.release()

    def _start_listening(self) -> None:
        if self._listener is None or not self._listener.is_alive():
            self._listener = threading.Thread(target=self._listen, name="reef-wakeup", daemon=True)
            self._listener.start()

    def _follow_while_locked(self) -> None:
        """Follow until stopped, or until another worker holds the lock."""
        logger.info("following the sessions of %s", settings.HOST)
        while not self.stopping.is_set() and self._keeps_lock():
            try:
                self._wakeup.wait(self._run_once())
            except ProgressLost as error:
                logger.warning("%s; starting over from the rows", error)
                self._start_over()
            except NotTheFollower as other:
                self._stand_by(str(other))
            except DatabaseError:
                logger.exception("the database failed; starting over from its rows")
                self._start_over()
            except Exception:
                logger.exception("the follower failed; starting over from the rows")
                self._start_over()
        self._resign()

    def _wait_for_lock(self) -> bool:
        """Wait to become the only follower of this host; return False if stopped meanwhile."""
        known = ""
        while not self.stopping.is_set():
            try:
                if self._lock.try_take():
                    return True
                level, trouble = logging.INFO, "another worker of this host follows; standing by"
            except OSError as error:
                level, trouble = logging.WARNING, f"cannot lock {self._lock.path}: {error}"
                if isinstance(error, FileNotFoundError):
                    self._make_run_folder()
            if trouble != known:
                logger.log(level, "%s", trouble)
            known = trouble
            self.stopping.wait(0.5)
        return False

    def _make_run_folder(self) -> None:
        """Create the lock's folder again after it was removed."""
        try:
            self._lock.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("cannot make %s: %s", self._lock.path.parent, error.strerror)

    def _keeps_lock(self) -> bool:
        """Check now and then whether the lock is still ours, and return the result."""
        now = time.monotonic()
        if now - self._lock_checked_at < locks.KEEP_SECONDS:
            return True
        self._lock_checked_at = now
        if self._lock.keep():
            return True
        logger.warning("%s was removed, and another worker has locked it", self._lock.path)
        self._forget()
        return False

    def _stand_by(self, why: str) -> None:
        """Follow nothing while another follower with this folder's identity is running."""
        if why != self._rival:
            logger.warning("%s", why)
        self._rival = why
        try:
            hosts.record_rival(why)
        except DatabaseError as error:
            logger.warning("cannot keep that in the database: %s", type(error).__name__)
        self._start_over()

    def _resign(self) -> None:
        try:
            hosts.release_lease(self.watchdog.follower_id)
        except DatabaseError as error:
            logger.info("cannot resign: %s", type(error).__name__)

    def stop(self) -> None:
        """Ask the loop to end after the current pass."""
        self.stopping.set()
        self._wakeup.set()

    # -- one turn ---------------------------------------------------------------------------

    def _run_once(self) -> float:
        """Run one iteration and return how many seconds to wait for an event."""
        began = time.monotonic()
        was_notified = self._wakeup.is_set()
        self._wakeup.clear()
        if was_notified or began - self._refreshed_at >= REFRESH_SECONDS:
            self.refresh()
            self._refreshed_at = began
        had_news = self.follow(began)
        self.outbox.send(self.sessions, began)
        if had_news:
            return max(0.0, PASS_SECONDS - (time.monotonic() - began))
        working = any(session.state.is_active for session in self.sessions.values())
        return READ_SECONDS if working else IDLE_READ_SECONDS

    def refresh(self) -> None:
        """Open sessions of new processes, drop ended ones, and run the time-based checks."""
        now = time.monotonic()
        self.watchdog.record_heartbeat(now)
        self.clock.check(self.sessions.values())
        live = Process.objects.live().here()
        rows = {process.pk: process for process in live.for_checks()}
        if unopened := rows.keys() - self.sessions.keys():
            rows |= live.select_related("lieutenant").in_bulk(unopened)
        for pk in self.sessions.keys() - rows.keys():
            released = self.sessions.pop(pk).process
            transport_of(released).release(released.directory)
        for session in self.sessions.values():
            session.recorder.refresh_screening()
        if unopened:
            # An agent gets its secrets at its start, so a session that is opened now knows all of
            # them.
            sources.recheck()
        for pk, process in rows.items():
            is_skipped = now < self._skipped_until.get(pk, 0.0)
            if pk not in self.sessions and process.handle and not is_skipped:
                if strays.runs_elsewhere(process):
                    self._skipped_until[pk] = now + strays.AGAIN_SECONDS
                    continue
                if _can_open(process):
                    self.sessions[pk] = Session.open(process, now, recheck_secrets=False)
        self.watchdog.run_checks(rows, now)
        self.outbox.refresh(self.sessions)
        self.replies.refresh(
            self.sessions, now, collect=self.outbox.collect, commit=self.watchdog.commit
        )

    def follow(self, clock: float) -> bool:
        """Run one pass over the journals; return whether there was anything to write."""
        with_idle = clock - self._idle_read_at >= IDLE_READ_SECONDS
        if with_idle:
            self._idle_read_at = clock
        due = [each for each in self.sessions.values() if with_idle or each.state.is_active]
        follow = self._follow_one_by_one if self._isolate_sessions else self._follow
        return follow(due, clock)

    def _follow(self, due: list[Session], clock: float) -> bool:
        news = list(self._read(due))
        touched = {id(session) for session, _, _ in news}
        # Without new records nothing is written, unless a session may have settled.
        affected = [each for each in due if id(each) in touched or each.may_settle(clock)]
        starting = [each for each in affected if each.process.ready_at is None]
        if affected:
            revs = self._commit(news, affected, clock)
            if revs:
                events.publish_transcripts(revs)
        if any(each.process.ready_at for each in starting):
            self._wakeup.set()  # a start slot is free now
        for session in [each for each in affected if each.state.is_ended]:
            self.sessions.pop(session.process.pk, None)
            self.watchdog.after_end(session)
        for session in due:
            self.outbox.collect(session)
        for session, _, _ in news:
            _release_space(session)
        return bool(news)

    def _follow_one_by_one(self, due: list[Session], clock: float) -> bool:
        """Give each session its own transaction, so that a broken one does not block the others."""
        had_news = False
        for session in due:
            try:
                had_news = self._follow([session], clock) or had_news
            except (OperationalError, ProgressLost):
                raise
            except Exception:
                logger.exception("%s cannot be followed; left alone for a while", session.process)
                self.sessions.pop(session.process.pk, None)
                self._skipped_until[session.process.pk] = clock + SKIP_SECONDS
        self._isolate_sessions = False
        return had_news

    def _read(self, due: list[Session]) -> Iterator[tuple[Session, list[list[object]], int]]:
        """Yield session, new records and their size.

        After a pass that was full, the next one begins with the sessions that had no turn.
        """
        bytes_left, records_left = PASS_BYTES, PASS_RECORDS
        first = self._first_index % max(1, len(due))
        for number, session in enumerate(due[first:] + due[:first], start=1):
            self._first_index = first + number
            found = self._read_one(session, min(SESSION_BYTES, bytes_left), records_left)
            if found is None:
                continue
            records, size = found
            if size:
                yield session, records, size
            bytes_left -= size
            records_left -= len(records)
            if bytes_left < LEAST_READ_BYTES or records_left <= 0:
                return
        self._first_index = first + 1

    def _read_one(
        self, session: Session, limit: int, most: int
    ) -> tuple[list[list[object]], int] | None:
        """Return new records of one session and their size; None if there is nothing to read."""
        process = session.process
        try:
            data = transport_of(process).read(process.directory, process.offset, limit)
            if journal_gaps.begins_with_gap(data):
                return journal_gaps.skip_gap(process)
            if not data:
                return None
            records, size = journal.split(data, min(SESSION_RECORDS, most))
            if not size and len(data) >= SESSION_BYTES:
                return self._long_record(session)
        except TransportError as error:
            logger.warning("cannot read the journal of %s: %s", process, error)
            return None
        return records, size

    @staticmethod
    def _long_record(session: Session) -> tuple[list[list[object]], int]:
        """Read a record that is larger than a pass; the keeper limits its size."""
        process = session.process
        data = transport_of(process).read(process.directory, process.offset, 16 * SESSION_BYTES)
        return journal.split(data, 1)

    def _commit(
        self,
        news: list[tuple[Session, list[list[object]], int]],
        affected: list[Session],
        clock: float,
    ) -> dict[str, int]:
        """Apply and write everything in one transaction; return the transcripts that changed."""
        advanced = {id(session) for session, _, _ in news}
        before = {id(each): _progress_values(each) for each in affected if id(each) not in advanced}
        batch = WriteBatch()
        with transaction.atomic():
            check_still_ours([each.process for each in affected])
            for session, records, size in news:
                session.apply(records, batch, clock)
                session.process.offset += size
            for session in affected:
                session.use(batch)
                session.idle_if_settled(clock)
            batch.write()
            for session in affected:
                session.store_state()
            changed = [
                each
                for each in affected
                if id(each) in advanced or _progress_values(each) != before[id(each)]
            ]
            save_progress(changed)
        return {each.lieutenant.pk: each.lieutenant.rev for each in changed}

    # -- around it -----------------------------------------------------------------------------

    def _start_over(self) -> None:
        """Read everything again, since memory may differ from what was committed."""
        self._forget()
        self._isolate_sessions = True
        close_old_connections()
        self.stopping.wait(RETRY_SECONDS)

    def _forget(self) -> None:
        self.sessions.clear()
        self._refreshed_at = -REFRESH_SECONDS

    def _listen(self) -> None:
        """Wait for events. Without Redis nothing is lost, since rows are read every second."""
        complained = False
        while not self.stopping.is_set():
            try:
                with events.subscription() as subscription:
                    subscription.subscribe(events.WAKE_CHANNEL)
                    self._wakeup.set()
                    complained = False
                    while not self.stopping.is_set():
                        if subscription.get_message(timeout=1.0):
                            self._wakeup.set()
            except (redis.RedisError, OSError, ValueError, TypeError, AttributeError) as error:
                # The last two: redis-py uses a socket that it has closed itself.
                if not complained:
                    logger.warning("no bell from Redis (%s); looking each second", error)
                complained = True
                self.stopping.wait(1.0)


def _can_open(process: Process) -> bool:
    """Return whether the part of the journal can be read from which held text is recovered."""
    begin = held_from(process.state.get("held") or {}, process.offset)
    return transport_of(process).can_read(process.directory, begin, process.offset)


def _release_space(session: Session) -> None:
    """Release the disk space of journal records that were committed long ago.

    Some of it is kept for a database that was restored from a backup, or that lost its last commits
    in a power failure.
    """
    process, end = session.process, session.releasable_until(KEPT_BYTES, SHORTEN_BYTES)
    if not end:
        return
    session.mark_released(end)
    try:
        transport_of(process).shorten(process.directory, end)
    except TransportError as error:
        logger.warning("%s: %s", process, error)


def _progress_values(session: Session) -> tuple[object, ...]:
    """Return the values that `save_progress` writes, to detect changes without new records."""
    row, lieutenant = session.process, session.lieutenant
    waits = (lieutenant.waiting_for, lieutenant.waiting_since, lieutenant.waiting_until)
    return (row.offset, row.state, lieutenant.rev, *waits, lieutenant.trouble)
