"""Journals to rows: one loop for all sessions of this host, run by the Celery worker.

Each pass reads what the journals have new, applies it and commits it together with the journals'
new offsets in one transaction. `Watch` does what the clock asks for, `Outbox` sends what waits.
One follower a host: whoever holds the lock file. A worker that is killed lets go of it at once.
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

from lieutenants import rpc
from lieutenants.clock_jumps import ClockWatch
from lieutenants.exceptions import NotTheFollower, ProgressLost, TransportError
from lieutenants.hosts import lock, strays
from lieutenants.hosts import services as hosts
from lieutenants.ledger import Ledger, save_progress
from lieutenants.models import Process
from lieutenants.outbox import Outbox
from lieutenants.session import Session
from lieutenants.transports import get_transport
from lieutenants.watch import Watch
from reef_site.common import events, locks

logger = logging.getLogger(__name__)

PASS_SECONDS = 0.1  # at most one transaction in this time
LOOK_SECONDS = 0.03  # how often the journals of working sessions are looked at
IDLE_LOOK_SECONDS = 0.25  # and those of resting ones
REFRESH_SECONDS = 1.0  # how often rows are looked at without a bell
SESSION_BYTES = 1 << 20  # at most from one journal in one pass
PASS_BYTES = 2 << 20  # and from all of them: a pass holds the database's write lock
KEPT_BYTES = 32 << 20  # of a journal behind what was committed
SHORTEN_BYTES = 8 << 20  # how much of a journal is given up at a time
AGAIN_SECONDS = 1.0  # after a failure
ASIDE_SECONDS = 30.0  # how long a session that fails by itself is left alone


class Follower:
    """Runs in a thread of its own until `stop`."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.outbox = Outbox()
        self.watch = Watch(self.sessions)
        self.clock = ClockWatch()
        self.stopping = threading.Event()
        self._bell = threading.Event()
        self._refreshed = -REFRESH_SECONDS
        self._looked_at_resting = 0.0
        self._first = 0
        # After a failure each session is followed by itself for one pass, to find the culprit.
        self._careful = False
        self._aside: dict[str, float] = {}
        self._lock = locks.FileLock(settings.RUN_DIR / "follower.lock")
        self._lock_seen = 0.0
        self._yields_to = ""
        self._listener: threading.Thread | None = None

    def run(self) -> None:
        """Follow until told to stop. Trouble is logged and begun anew from the rows."""
        try:
            while not self.stopping.is_set():
                try:
                    self._follow_once_free()
                except Exception:
                    # This thread is the only follower of the worker, which goes on without it.
                    logger.exception("the follower failed; trying again")
                    self._forget()
                    self.stopping.wait(AGAIN_SECONDS)
        finally:
            self.outbox.close()
            connections.close_all()

    def _follow_once_free(self) -> None:
        """Wait for the locks, follow as long as they are held, and release them."""
        try:
            if not self._wait_for_lock():
                return
            with lock.one_folder(self.stopping) as alone:
                if alone:
                    self._start_listening()
                    self._follow_while_locked()
        finally:
            self._lock.release()

    def _start_listening(self) -> None:
        if self._listener is None or not self._listener.is_alive():
            self._listener = threading.Thread(target=self._listen, name="reef-bell", daemon=True)
            self._listener.start()

    def _follow_while_locked(self) -> None:
        """Follow until told to stop, or until another worker has the lock."""
        logger.info("following the sessions of %s", settings.HOST)
        while not self.stopping.is_set() and self._keeps_lock():
            try:
                self._bell.wait(self._turn())
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
        """Wait to be the one follower of this host; False if told to stop meanwhile."""
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
        """Make the folder of the lock again after it was swept away."""
        try:
            self._lock.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("cannot make %s: %s", self._lock.path.parent, error.strerror)

    def _keeps_lock(self) -> bool:
        """Look now and then whether the lock is still ours; the other follows if it is not."""
        now = time.monotonic()
        if now - self._lock_seen < locks.KEEP_SECONDS:
            return True
        self._lock_seen = now
        if self._lock.keep():
            return True
        logger.warning("%s was removed, and another worker has locked it", self._lock.path)
        self._forget()
        return False

    def _stand_by(self, why: str) -> None:
        """Follow nothing while another follower of this folder's identity is at work."""
        if why != self._yields_to:
            logger.warning("%s", why)
        self._yields_to = why
        try:
            hosts.note_rival(why)
        except DatabaseError as error:
            logger.warning("cannot keep that in the database: %s", type(error).__name__)
        self._start_over()

    def _resign(self) -> None:
        try:
            hosts.resign(self.watch.follower_id)
        except DatabaseError as error:
            logger.info("cannot resign: %s", type(error).__name__)

    def stop(self) -> None:
        """Ask the loop to end after its pass."""
        self.stopping.set()
        self._bell.set()

    # -- one turn ---------------------------------------------------------------------------

    def _turn(self) -> float:
        """Do what there is to do; returns how many seconds to wait for a bell."""
        began = time.monotonic()
        rung = self._bell.is_set()
        self._bell.clear()
        if rung or began - self._refreshed >= REFRESH_SECONDS:
            self.refresh()
            self._refreshed = began
        heard = self.follow(began)
        self.outbox.send(self.sessions, began)
        if heard:
            return max(0.0, PASS_SECONDS - (time.monotonic() - began))
        working = any(not session.resting for session in self.sessions.values())
        return LOOK_SECONDS if working else IDLE_LOOK_SECONDS

    def refresh(self) -> None:
        """Take up new processes, drop ended ones, look at what the clock asks for."""
        now = time.monotonic()
        self.watch.sign(now)
        self.clock.look(self.sessions.values())
        live = Process.objects.live().here().select_related("lieutenant")
        rows = {process.pk: process for process in live}
        for pk in self.sessions.keys() - rows.keys():
            del self.sessions[pk]
        for session in self.sessions.values():
            session.use_newest_screen()
        for pk, process in rows.items():
            if pk not in self.sessions and process.handle and now >= self._aside.get(pk, 0.0):
                if strays.runs_elsewhere(process):
                    self._aside[pk] = now + strays.AGAIN_SECONDS
                    continue
                # An agent gets secrets when it starts: the session knows all stored by then.
                session = Session.open(process)
                session.heard_at = session.opened_at = now
                session.was_ready = process.ready_at is not None
                self.sessions[pk] = session
        self.watch.look(rows, now)
        self.outbox.look(self.sessions)

    def follow(self, clock: float) -> bool:
        """One pass over the journals; True if there was anything to write."""
        with_resting = clock - self._looked_at_resting >= IDLE_LOOK_SECONDS
        if with_resting:
            self._looked_at_resting = clock
        due = [each for each in self.sessions.values() if with_resting or not each.resting]
        return self._follow_carefully(due, clock) if self._careful else self._follow(due, clock)

    def _follow(self, due: list[Session], clock: float) -> bool:
        news = list(self._read(due))
        touched = {id(session) for session, _, _ in news}
        # Without news nothing is written, save to find that a session has come to rest.
        stirred = [each for each in due if id(each) in touched or each.may_rest(clock)]
        starting = [each for each in stirred if each.process.ready_at is None]
        if stirred:
            revs = self._commit(news, stirred, clock)
            if revs:
                events.publish_transcripts(revs)
        if any(each.process.ready_at for each in starting):
            self._bell.set()  # there is room for another start
        for session in [each for each in stirred if each.ended]:
            self.sessions.pop(session.process.pk, None)
            self.watch.after_end(session)
        for session in due:
            self.outbox.post(session)
        for session, _, _ in news:
            _shorten(session)
        return bool(news)

    def _follow_carefully(self, due: list[Session], clock: float) -> bool:
        """Each session in a transaction of its own: one that cannot be followed stops no other."""
        heard = False
        for session in due:
            try:
                heard = self._follow([session], clock) or heard
            except (OperationalError, ProgressLost):
                raise
            except Exception:
                logger.exception("%s cannot be followed; left alone for a while", session.process)
                self.sessions.pop(session.process.pk, None)
                self._aside[session.process.pk] = clock + ASIDE_SECONDS
        self._careful = False
        return heard

    def _read(self, due: list[Session]) -> Iterator[tuple[Session, list[list[object]], int]]:
        """New records of these sessions; a rotating start keeps one from starving the others."""
        left = PASS_BYTES
        self._first = (self._first + 1) % max(1, len(due))
        for session in due[self._first :] + due[: self._first]:
            process = session.process
            try:
                data = get_transport(process.transport).read(
                    process.directory, process.offset, min(SESSION_BYTES, left)
                )
                gap = _gap(session) if data.startswith(b"\0") else None
            except TransportError as error:
                logger.warning("cannot read the journal of %s: %s", process, error)
                continue
            if not data:
                continue
            if gap:
                yield session, *gap
                continue
            records, size = rpc.split(data)
            if not size and len(data) >= SESSION_BYTES:
                records, size = self._long_record(session)
            if size:
                yield session, records, size
            left -= len(data)
            if left <= 0:
                return

    @staticmethod
    def _long_record(session: Session) -> tuple[list[list[object]], int]:
        """One record larger than a pass; the keeper's own limit bounds it."""
        process = session.process
        data = get_transport(process.transport).read(
            process.directory, process.offset, 16 * SESSION_BYTES
        )
        return rpc.split(data)

    def _commit(
        self,
        news: list[tuple[Session, list[list[object]], int]],
        stirred: list[Session],
        clock: float,
    ) -> dict[str, int]:
        """Apply and write, all or nothing; returns the transcripts that grew."""
        before = {id(session): _progress(session) for session in stirred}
        ledger = Ledger()
        with transaction.atomic():
            for session, records, size in news:
                session.apply(records, ledger, clock)
                session.process.offset += size
            for session in stirred:
                session.ledger = ledger
                session.rest_if_settled(clock)
            ledger.write()
            for session in stirred:
                session.remember()
            changed = [each for each in stirred if _progress(each) != before[id(each)]]
            save_progress(changed)
        return {each.lieutenant.pk: each.lieutenant.rev for each in changed}

    # -- around it -----------------------------------------------------------------------------

    def _start_over(self) -> None:
        """What memory says may not be what was committed: read everything anew."""
        self._forget()
        self._careful = True
        close_old_connections()
        self.stopping.wait(AGAIN_SECONDS)

    def _forget(self) -> None:
        self.sessions.clear()
        self._refreshed = -REFRESH_SECONDS

    def _listen(self) -> None:
        """Hear the bell. Without Redis nothing is lost: rows are looked at each second."""
        complained = False
        while not self.stopping.is_set():
            try:
                with events.subscription() as subscription:
                    subscription.subscribe(events.WAKE_CHANNEL)
                    self._bell.set()
                    complained = False
                    while not self.stopping.is_set():
                        if subscription.get_message(timeout=1.0):
                            self._bell.set()
            except (redis.RedisError, OSError, ValueError, TypeError, AttributeError) as error:
                # The last two: redis-py uses a socket that it has closed itself.
                if not complained:
                    logger.warning("no bell from Redis (%s); looking each second", error)
                complained = True
                self.stopping.wait(1.0)


def _gap(session: Session) -> tuple[list[list[object]], int]:
    """Pass over a part of the journal that is gone; the database is older than the journal then."""
    process = session.process
    end = get_transport(process.transport).skip_gap(process.directory, process.offset)
    size = end - process.offset
    logger.warning("%s: %s bytes of its journal are gone", process, size)
    return [["gap", 0, size]], size


def _shorten(session: Session) -> None:
    """Give back the room of what was committed long ago.

    Some is kept, so that a database that comes from a backup, or lost its last commits with the
    machine's power, finds what it lacks.
    """
    process = session.process
    end = session.screening.needed_from(process.offset) - KEPT_BYTES
    if session.ended or end - session.shortened < SHORTEN_BYTES:
        return
    session.shortened = end
    try:
        get_transport(process.transport).shorten(process.directory, end)
    except TransportError as error:
        logger.warning("%s: %s", process, error)


def _progress(session: Session) -> tuple[object, ...]:
    """What `save_progress` would write, to see whether it changed."""
    row, lieutenant = session.process, session.lieutenant
    facts = (lieutenant.rev, lieutenant.waiting_for, lieutenant.waiting_since)
    return (row.offset, repr(session.memory), *facts, lieutenant.trouble)
