"""What the clock asks of the follower: liveness, stalls, restarts, idle limits, aborts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

from django.conf import settings
from django.db import connections, transaction
from django.utils import timezone

from lieutenants import ending, failing, muster, rewinding, rpc, runtime
from lieutenants.exceptions import TransportError
from lieutenants.hosts import services as hosts
from lieutenants.hosts import strays
from lieutenants.ledger import Ledger, save_progress
from lieutenants.models import Lieutenant, LifeSign, Process
from lieutenants.reachability import Reachability, is_ours
from lieutenants.session import Session
from lieutenants.states import Status
from lieutenants.tool_limits import ToolClock, named
from lieutenants.transports import get_transport
from lieutenants.unknown_agents import scan
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace
from reef_site.common.ids import new_ulid

logger = logging.getLogger(__name__)

RECONCILE_SECONDS = 5.0
SIGN_SECONDS = 5.0
# A process whose keeper has not said in this time where it is was lost in its start.
LOST_START = timedelta(seconds=35)
# A keeper that was started tells where it is much sooner, whoever asks.
FIND_AFTER = timedelta(seconds=3)
# What is gone when a session has just been taken up ended before.
FIRST_LOOK_SECONDS = 2.0
# After the abort of a stalled answer, before its process is ended.
ABORT_SECONDS = 10.0
# An agent writes to its session by a path that leads nowhere after the move.
RESTARTED_THERE = "its data folder was moved; started again there with what its session has"


class Watch:
    """Looked at about once a second, and when the bell rings."""

    def __init__(self, sessions: dict[str, Session]) -> None:
        self._sessions = sessions
        self.follower_id = new_ulid()
        self._signed = -SIGN_SECONDS
        self._reconciled = -RECONCILE_SECONDS
        self._mustered = -muster.EVERY_SECONDS
        self._busy = threading.Lock()
        self._aborted_at: dict[str, float] = {}
        self._tools: dict[str, ToolClock] = {}
        self._reach = Reachability()
        self._troubled: list[Session] = []
        self._hidden_trouble: dict[str, str] = {}

    def sign(self, clock: float) -> None:
        """Say now and then that this follower is at work. Raises NotTheFollower."""
        if clock - self._signed >= SIGN_SECONDS:
            hosts.sign(self.follower_id)
            LifeSign.give(f"follower@{settings.HOST}")
            self._signed = clock

    def look(self, rows: Mapping[str, Process], clock: float) -> None:
        """`rows` are this host's live processes as the database has them now."""
        for pk, process in rows.items():
            session = self._sessions.get(pk)
            if session is None:
                self._find_lost_start(process)
                strays.look_at(process)
                continue
            self._look_at(session, process, clock)
        self._say_reach()
        self._restart_due()
        self._pause_idle()
        self._bring_back_stranded()
        if clock - self._mustered >= muster.EVERY_SECONDS:
            self._mustered = clock
            present = [row.lieutenant_id for row in rows.values() if self._is_there(row)]
            self._in_background(lambda: muster.muster(present))
        due = clock - self._reconciled >= RECONCILE_SECONDS
        if due or (not self._busy.locked() and runtime.may_start_another()):
            self._reconciled = clock
            self._in_background(self._reconcile)
        if due:
            self._in_background(scan.look)

    @staticmethod
    def _reconcile() -> None:
        runtime.reconcile()
        strays.end_abandoned()

    def _is_there(self, process: Process) -> bool:
        """Whether its keeper was alive when it was looked at just now."""
        session = self._sessions.get(process.pk)
        return session is not None and not session.ended

    def after_end(self, session: Session) -> None:
        """The place of an ended process is free: start whoever waits for it."""
        self._aborted_at.pop(session.process.pk, None)
        self._reach.forget(session.process.pk)
        self._hidden_trouble.pop(session.process.pk, None)
        self._tools.pop(session.process.pk, None)
        transport = get_transport(session.process.transport)
        transport.clean(session.process.directory)
        events.publish_lieutenant(session.lieutenant.pk)
        self._in_background(runtime.reconcile)

    def _look_at(self, session: Session, row: Process, clock: float) -> None:
        if not session.ended and not get_transport(row.transport).alive(row.handle, row.directory):
            is_first_look = clock - session.opened_at < FIRST_LOOK_SECONDS
            self._gone(session, while_away=session.was_ready and is_first_look)
            return
        out_of_reach = self._reach.look(session, row, clock)
        self._note_reach(session, clock)
        session.process.stop_asked_at = row.stop_asked_at
        lieutenant = row.lieutenant
        if lieutenant.abort_asked_at:
            self._abort(session, lieutenant)
        if lieutenant.rewind_to is not None or session.memory.rewinding:
            rewinding.look(session, lieutenant, clock)
        if lieutenant.status == Status.WORKING and row.ready_at and not session.memory.busy:
            session.resting = False
        if session.floods.is_due(timezone.now()):
            self._say_left_out(session)
        if strays.must_restart(row, lieutenant) and row.stop_asked_at is None:
            self._restart_moved(row, lieutenant)
        elif lieutenant.should_run and row.stop_asked_at is None:
            self._limit_silence(session, lieutenant, clock, out_of_reach)

    # -- processes -----------------------------------------------------------------------

    def _gone(self, session: Session, *, while_away: bool) -> None:
        """The keeper is dead. What it wrote last is read first, then the process is ended."""
        process = session.process
        transport = get_transport(process.transport)
        try:
            rest = transport.read(process.directory, process.offset, 64 << 20)
        except TransportError as error:
            logger.warning("cannot read the end of %s: %s", process, error)
            rest = b""
        ledger = Ledger()
        with transaction.atomic():
            records, size = rpc.split(rest)
            session.apply(records, ledger, session.heard_at)
            process.offset += size
            if not session.ended:
                ending.vanish(session, while_away=while_away)
            ledger.write()
            session.remember()
            save_progress([session])
        self._sessions.pop(process.pk, None)
        events.publish_transcripts({session.lieutenant.pk: session.lieutenant.rev})
        if not Lieutenant.objects.get(pk=session.lieutenant.pk).should_run:
            # What it left behind is ended; where it starts again, its next keeper does that.
            end_rest = partial(transport.stop, process.directory, process.handle, None)
            self._in_background(end_rest)
        self.after_end(session)

    def _find_lost_start(self, process: Process) -> None:
        """A worker died between the row and the keeper's answer: look what came of it."""
        now = timezone.now()
        if process.handle or now - process.started_at < FIND_AFTER:
            return
        handle = get_transport(process.transport).find(process.directory)
        if handle:
            Process.objects.filter(pk=process.pk, handle={}).update(handle=handle)
            return
        if now - process.started_at < LOST_START or self._busy.locked():
            return
        reason = process.end_reason
        if (now - process.started_at).total_seconds() > settings.START_SECONDS:
            reason = reason or f"Its supervisor did not come up for {settings.START_SECONDS} s."
            runtime.fail(process.lieutenant, reason)
        self._in_background(partial(runtime.settle_lost_start, process, reason))

    def _restart_moved(self, row: Process, lieutenant: Lieutenant) -> None:
        """Start a resting agent anew whose paths lead nowhere since its folder was moved."""
        Process.objects.filter(pk=row.pk).update(stop_asked_at=timezone.now())
        self._move(lieutenant, Status.STARTING, RESTARTED_THERE)

    # -- time limits ---------------------------------------------------------------------

    def _limit_silence(
        self, session: Session, lieutenant: Lieutenant, clock: float, out_of_reach: float
    ) -> None:
        silence = clock - session.heard_at
        waiting_for = session.waiting_for()
        if session.process.ready_at is None:
            # Whatever it prints meanwhile: only its answer makes it ready.
            if clock - session.opened_at > settings.START_SECONDS:
                text = f"The agent did not answer for {settings.START_SECONDS} s after its start."
                self._give_up(session, text)
            return
        limit = lieutenant.stall_limit_seconds
        if limit and out_of_reach > limit and lieutenant.status == Status.WORKING:
            text = f"Its supervisor did not answer for {int(out_of_reach)} s; it was ended."
            self._give_up(session, text)
            return
        awaited = waiting_for and not session.results
        what = self._overlong_tool(session, lieutenant.tool_limit_seconds, clock)
        if not what and limit and awaited and silence >= limit:
            what = f"Silent for {int(silence)} s while waiting for {waiting_for}"
        if not what:
            self._aborted_at.pop(session.process.pk, None)
            return
        aborted_at = self._aborted_at.setdefault(session.process.pk, clock)
        if aborted_at == clock:
            self._say_stalled(session, what)
            session.outgoing.append(rpc.simple("abort", f"~abort-stall-{int(clock)}"))
            session.resting = False
        elif clock - aborted_at > ABORT_SECONDS:
            self._give_up(
                session,
                f"{what}; an abort did not help, so its process was ended.",
            )

    def _note_reach(self, session: Session, clock: float) -> None:
        """Tell as its trouble that the supervisor does not answer, and when it does again."""
        trouble = self._reach.trouble(session.process.pk, clock)
        told = session.lieutenant.trouble
        if trouble == told or not (trouble or is_ours(told)):
            return
        logger.warning("%s: %s", session.lieutenant, trouble or "its supervisor answers again")
        if not is_ours(told):
            self._hidden_trouble[session.process.pk] = told
        session.lieutenant.trouble = trouble or self._trouble_before(session)
        self._troubled.append(session)

    def _trouble_before(self, session: Session) -> str:
        """Return the trouble that was hidden while the supervisor did not answer."""
        hidden = self._hidden_trouble.pop(session.process.pk, None)
        if hidden is not None:
            return hidden
        # An earlier follower hid it.
        failure = session.memory.failure if session.memory.stop_reason == "error" else ""
        return failing.trouble(session.lieutenant) or failure

    def _say_reach(self) -> None:
        """Write what was noted, for all sessions in one transaction."""
        noted = [session for session in self._troubled if not session.ended]
        self._troubled.clear()
        if not noted:
            return
        with transaction.atomic():
            for session in noted:
                session.remember()
            save_progress(noted)
        for session in noted:
            events.publish_lieutenant(session.lieutenant.pk)

    def _overlong_tool(self, session: Session, limit: int, clock: float) -> str:
        """Say which tool call is past its limit; empty if none is."""
        tools = self._tools.setdefault(session.process.pk, ToolClock())
        running = [each for each in session.results.values() if each.pk is not None]
        tools.keep_only(each.pk for each in running)
        took = {each.pk: tools.seconds(each, clock) for each in running}
        if not limit or not session.memory.running:
            return ""
        overdue = [each for each in running if took[each.pk] >= limit]
        return f"Tool {named(overdue)} ran longer than its limit of {limit} s" if overdue else ""

    def _say_stalled(self, session: Session, what: str) -> None:
        """The transcript says who breaks the answer off, and why."""
        text = f"{what}: reef aborts this answer."
        logger.warning("%s: %s", session.lieutenant, text)

        def say() -> None:
            session.notice(timezone.now(), text, is_error=True)
            session.lieutenant.trouble = text

        self._write(session, say)

    def _say_left_out(self, session: Session) -> None:
        """Tell of rows that were not made, also when the agent says nothing more."""
        self._write(session, lambda: session.say_left_out(timezone.now()))

    def _write(self, session: Session, work: Callable[[], None]) -> None:
        session.ledger = ledger = Ledger()
        with transaction.atomic():
            work()
            ledger.write()
            session.remember()
            save_progress([session])
        events.publish_transcripts({session.lieutenant.pk: session.lieutenant.rev})

    def _give_up(self, session: Session, reason: str) -> None:
        with transaction.atomic():
            ending.give_up(session, reason)
        pk = session.lieutenant.pk
        self._in_background(lambda: runtime.settle(pk))

    def _abort(self, session: Session, lieutenant: Lieutenant) -> None:
        mine = Lieutenant.objects.filter(pk=lieutenant.pk, abort_asked_at=lieutenant.abort_asked_at)
        if not mine.update(abort_asked_at=None):
            return
        mark = str(int(time.time() * 1000))
        if session.memory.clears_queue:
            session.outgoing.append(rpc.simple("clear_queue", f"~clear-{mark}"))
        session.outgoing.append(rpc.simple("abort", f"~abort-{mark}"))
        session.resting = False

    def _restart_due(self) -> None:
        for lieutenant in Lieutenant.objects.here().due_for_restart(timezone.now()):
            reason = f"try {lieutenant.restarts} to start it again"
            self._move(lieutenant, Status.STARTING, reason)

    def _pause_idle(self) -> None:
        for lieutenant in Lieutenant.objects.here().idle_too_long(timezone.now()):
            reason = f"idle for {lieutenant.idle_limit_minutes} minutes"
            self._move(lieutenant, Status.PAUSED, reason)

    def _bring_back_stranded(self) -> None:
        for lieutenant in runtime.stranded():
            self._move(lieutenant, Status.STARTING, "it had no process; started again")

    def _move(self, lieutenant: Lieutenant, to: Status, reason: str) -> None:
        try:
            lieutenant.move(to, reason=reason)
        except (LostRace, IllegalMove) as error:
            logger.info("%s", error)
            return
        pk = lieutenant.pk
        self._in_background(lambda: runtime.settle(pk))

    def _in_background(self, work: Callable[[], None]) -> None:
        """Starting and stopping take their time; the journals do not wait for them."""

        def run() -> None:
            try:
                with self._busy:
                    work()
            except Exception:
                logger.exception("settling failed; the next reconcile tries again")
            finally:
                connections.close_all()

        threading.Thread(target=run, name="reef-settle", daemon=True).start()
