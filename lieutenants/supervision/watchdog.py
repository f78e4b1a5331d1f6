"""Time-based checks of the follower: liveness, stalls, restarts, idle limits, aborts."""

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

from lieutenants import membership_reconcile
from lieutenants.exceptions import TransportError
from lieutenants.hosts import services as hosts
from lieutenants.hosts import sharing, strays, takeover
from lieutenants.messages import rewinding
from lieutenants.models import Lieutenant, LifeSign, Process
from lieutenants.sessions import inputs
from lieutenants.sessions.session import Session
from lieutenants.sessions.tool_limits import ToolClock, describe_calls
from lieutenants.sessions.write_batch import WriteBatch, save_progress
from lieutenants.states import Status
from lieutenants.supervision import journal, remote_work, runtime, starts
from lieutenants.supervision.reachability import Reachability
from lieutenants.supervision.transports import transport_of
from lieutenants.troubles import is_reachability_trouble
from lieutenants.unknown_agents import scan
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace
from reef_site.common.ids import new_ulid

logger = logging.getLogger(__name__)

RECONCILE_SECONDS = 5.0
HEARTBEAT_SECONDS = 5.0
# A process whose keeper has not reported a handle in this time was lost during its start.
LOST_START_AFTER = timedelta(seconds=35)
# A started keeper can be found by its files much earlier.
FIND_AFTER = timedelta(seconds=3)
# A keeper that is gone this soon after its session was opened had ended before.
FIRST_CHECK_SECONDS = 2.0
# Time between the abort of a stalled answer and the end of its process.
ABORT_SECONDS = 10.0
# After the move, the agent writes to its session at a path that no longer exists.
MOVED_REASON = "its data folder was moved; started again there with what its session has"


class Watchdog:
    """Runs about once a second, and at each event."""

    def __init__(self, sessions: dict[str, Session]) -> None:
        self._sessions = sessions
        self.follower_id = new_ulid()
        self._heartbeat_at = -HEARTBEAT_SECONDS
        self._reconciled_at = -RECONCILE_SECONDS
        self._synced_at = -membership_reconcile.INTERVAL_SECONDS
        self._settling = threading.Lock()
        self._aborted_at: dict[str, float] = {}
        self._tool_clocks: dict[str, ToolClock] = {}
        self._reachability = Reachability()
        # By process on a VM: when that was out of reach for the last time.
        self._in_reach_since: dict[str, float] = {}
        self._changed_trouble: list[Session] = []
        self._hidden_trouble: dict[str, str] = {}

    def record_heartbeat(self, clock: float) -> None:
        """Record now and then that this follower is alive. Raises NotTheFollower."""
        if clock - self._heartbeat_at >= HEARTBEAT_SECONDS:
            hosts.renew_lease(self.follower_id)
            LifeSign.give(f"follower@{settings.HOST}")
            self._heartbeat_at = clock

    def run_checks(self, rows: Mapping[str, Process], clock: float) -> None:
        """Run all checks. `rows` are this host's live processes, fresh from the database."""
        for pk, process in rows.items():
            session = self._sessions.get(pk)
            if session is None:
                self._find_lost_start(process)
                strays.check_stray(process)
                continue
            self._check_session(session, process, clock)
        self._save_reachability()
        self._restart_due()
        self._pause_idle()
        self._restart_orphaned()
        if clock - self._synced_at >= membership_reconcile.INTERVAL_SECONDS:
            self._synced_at = clock
            present = [row.lieutenant_id for row in rows.values() if self._is_running(row)]
            self._in_background(lambda: membership_reconcile.reconcile(present))
        due = clock - self._reconciled_at >= RECONCILE_SECONDS
        if due or (not self._settling.locked() and runtime.may_start_another()):
            self._reconciled_at = clock
            self._in_background(self._reconcile)
        if due:
            self._in_background(scan.scan_host)

    @staticmethod
    def _reconcile() -> None:
        takeover.take_over_silent()
        sharing.share_out()
        runtime.reconcile()
        strays.end_abandoned()

    def _is_running(self, process: Process) -> bool:
        """Return whether the keeper was alive and in reach at the last check."""
        session = self._sessions.get(process.pk)
        is_open = session is not None and not session.state.is_ended
        # Nobody knows what became of an agent whose machine is out of reach.
        is_remote = process.transport != "local"
        return is_open and not (is_remote and self._reachability.is_out(process.pk))

    def after_end(self, session: Session) -> None:
        """Clean up after an ended process and start the next waiting lieutenant."""
        self._aborted_at.pop(session.process.pk, None)
        self._reachability.forget(session.process.pk)
        self._in_reach_since.pop(session.process.pk, None)
        self._hidden_trouble.pop(session.process.pk, None)
        self._tool_clocks.pop(session.process.pk, None)
        transport = transport_of(session.process)
        transport.clean(session.process.directory)
        events.publish_lieutenant(session.lieutenant.pk)
        self._in_background(runtime.reconcile)

    def _check_session(self, session: Session, row: Process, clock: float) -> None:
        is_alive = transport_of(row).alive(row.handle, row.directory)
        if not is_alive and not session.state.is_ended:
            is_first_check = clock - session.opened_at < FIRST_CHECK_SECONDS
            self._end_lost(session, while_away=session.was_ready and is_first_check)
            return
        out_of_reach = self._reachability.check(session, row, clock)
        self._update_reachability(session, clock)
        session.refresh_process(row)
        lieutenant = row.lieutenant
        if lieutenant.abort_asked_at:
            self._abort(session, lieutenant)
        if lieutenant.rewind_to is not None or session.state.rewinding:
            rewinding.advance(session, lieutenant, clock)
        if lieutenant.status == Status.WORKING and row.ready_at and not session.state.is_busy:
            session.handle(inputs.WorkSeen())
        if session.recorder.floods.is_due(timezone.now()):
            # Even when the agent prints nothing more.
            self._commit(session, inputs.OmissionsDue())
        if strays.must_restart(row, lieutenant) and row.stop_asked_at is None:
            self._restart_moved(row, lieutenant)
        elif out_of_reach and transport_of(row).is_remote:
            # Its agent goes on meanwhile, and what it says arrives later.
            self._in_reach_since[row.pk] = clock
        elif lieutenant.should_run and row.stop_asked_at is None:
            self._limit_silence(session, lieutenant, clock, out_of_reach)

    # -- processes -----------------------------------------------------------------------

    def _end_lost(self, session: Session, *, while_away: bool) -> None:
        """End the process of a dead keeper, after applying the rest of its journal."""
        process = session.process
        transport = transport_of(process)
        try:
            rest = transport.read(process.directory, process.offset, 64 << 20)
        except TransportError as error:
            logger.warning("cannot read the end of %s: %s", process, error)
            rest = b""
        batch = WriteBatch()
        with transaction.atomic():
            records, size = journal.split(rest)
            session.apply(records, batch, session.state.last_record_at)
            process.offset += size
            if not session.state.is_ended:
                session.handle(inputs.ProcessLost(while_away))
            batch.write()
            session.store_state()
            save_progress([session])
        self._sessions.pop(process.pk, None)
        events.publish_transcripts({session.lieutenant.pk: session.lieutenant.rev})
        if not Lieutenant.objects.get(pk=session.lieutenant.pk).should_run:
            # End the remaining processes. Before a restart the next keeper does that.
            end_rest = partial(transport.stop, process.directory, process.handle, None)
            if transport.is_remote:
                remote_work.submit(f"rest of {process.pk}", end_rest)
            else:
                self._in_background(end_rest)
        self.after_end(session)

    def _find_lost_start(self, process: Process) -> None:
        """Find out what became of a start whose worker died before the keeper replied."""
        now = timezone.now()
        if process.handle or now - process.started_at < FIND_AFTER:
            return
        transport = transport_of(process)
        handle = None if transport.is_remote else transport.find(process.directory)
        if handle:
            Process.objects.filter(pk=process.pk, handle={}).update(handle=handle)
            return
        if now - process.started_at < LOST_START_AFTER or self._settling.locked():
            return
        reason = process.end_reason
        if (now - process.started_at).total_seconds() > settings.START_SECONDS:
            reason = reason or f"Its supervisor did not come up for {settings.START_SECONDS} s."
            starts.fail(process.lieutenant, reason)
        resolve = partial(starts.resolve_lost_start, process, reason)
        if transport.is_remote:
            remote_work.submit(process.lieutenant_id, resolve)
        else:
            self._in_background(resolve)

    def _restart_moved(self, row: Process, lieutenant: Lieutenant) -> None:
        """Restart an idle agent whose paths no longer exist since its folder was moved."""
        Process.objects.filter(pk=row.pk).update(stop_asked_at=timezone.now())
        self._move(lieutenant, Status.STARTING, MOVED_REASON)

    # -- time limits ---------------------------------------------------------------------

    def _limit_silence(
        self, session: Session, lieutenant: Lieutenant, clock: float, out_of_reach: float
    ) -> None:
        in_reach_since = self._in_reach_since.get(session.process.pk, 0.0)
        silence = clock - max(session.state.last_record_at, in_reach_since)
        waiting_for = session.waiting_for()
        if session.process.ready_at is None:
            # Only its reply to the first query makes the agent ready, whatever it prints before.
            if clock - max(session.opened_at, in_reach_since) > settings.START_SECONDS:
                text = f"The agent did not answer for {settings.START_SECONDS} s after its start."
                self._fail_and_stop(session, text)
            return
        limit = lieutenant.stall_limit_seconds
        if limit and out_of_reach > limit and lieutenant.status == Status.WORKING:
            text = f"Its supervisor did not answer for {int(out_of_reach)} s; it was ended."
            self._fail_and_stop(session, text)
            return
        awaited = waiting_for and not session.recorder.results
        what = self._overlong_tool(session, lieutenant.tool_limit_seconds, clock)
        if not what and limit and awaited and silence >= limit:
            what = f"Silent for {int(silence)} s while waiting for {waiting_for}"
        if not what:
            self._aborted_at.pop(session.process.pk, None)
            return
        aborted_at = self._aborted_at.setdefault(session.process.pk, clock)
        if aborted_at == clock:
            text = f"{what}: reef aborts this answer."
            logger.warning("%s: %s", lieutenant, text)
            self._commit(session, inputs.Stalled(str(int(clock)), text))
        elif clock - aborted_at > ABORT_SECONDS:
            self._fail_and_stop(
                session,
                f"{what}; an abort did not help, so its process was ended.",
            )

    def _update_reachability(self, session: Session, clock: float) -> None:
        """Set the trouble text while the keeper does not respond, and clear it afterwards."""
        trouble = self._reachability.trouble(session.process.pk, clock)
        shown = session.lieutenant.trouble
        if trouble == shown or not (trouble or is_reachability_trouble(shown)):
            return
        logger.warning("%s: %s", session.lieutenant, trouble or "its supervisor answers again")
        if not is_reachability_trouble(shown):
            self._hidden_trouble[session.process.pk] = shown
        if trouble:
            session.handle(inputs.TroubleFound(trouble))
        else:
            # Unknown if it was hidden by an earlier follower.
            hidden = self._hidden_trouble.pop(session.process.pk, None)
            session.handle(inputs.TroubleOver(hidden))
        self._changed_trouble.append(session)

    def _save_reachability(self) -> None:
        """Save the collected changes of all sessions in one transaction."""
        noted = [session for session in self._changed_trouble if not session.state.is_ended]
        self._changed_trouble.clear()
        if not noted:
            return
        with transaction.atomic():
            for session in noted:
                session.store_state()
            save_progress(noted)
        for session in noted:
            events.publish_lieutenant(session.lieutenant.pk)

    def _overlong_tool(self, session: Session, limit: int, clock: float) -> str:
        """Return a text about tool calls past their limit; empty if there are none."""
        tools = self._tool_clocks.setdefault(session.process.pk, ToolClock())
        running = [each for each in session.recorder.results.values() if each.pk is not None]
        tools.keep_only(each.pk for each in running)
        took = {each.pk: tools.seconds(each, clock) for each in running}
        if not limit or not session.state.running:
            return ""
        overdue = [each for each in running if took[each.pk] >= limit]
        if not overdue:
            return ""
        return f"Tool {describe_calls(overdue)} ran longer than its limit of {limit} s"

    @staticmethod
    def _commit(session: Session, given: inputs.Request) -> None:
        session.commit(given)
        events.publish_transcripts({session.lieutenant.pk: session.lieutenant.rev})

    def _fail_and_stop(self, session: Session, reason: str) -> None:
        with transaction.atomic():
            session.handle(inputs.ProcessUseless(reason))
        pk = session.lieutenant.pk
        self._in_background(lambda: runtime.converge(pk))

    def _abort(self, session: Session, lieutenant: Lieutenant) -> None:
        mine = Lieutenant.objects.filter(pk=lieutenant.pk, abort_asked_at=lieutenant.abort_asked_at)
        if not mine.update(abort_asked_at=None):
            return
        session.handle(inputs.AbortAsked(str(int(time.time() * 1000))))

    def _restart_due(self) -> None:
        for lieutenant in Lieutenant.objects.here().due_for_restart(timezone.now()):
            reason = f"try {lieutenant.restarts} to start it again"
            self._move(lieutenant, Status.STARTING, reason)

    def _pause_idle(self) -> None:
        for lieutenant in Lieutenant.objects.here().idle_too_long(timezone.now()):
            reason = f"idle for {lieutenant.idle_limit_minutes} minutes"
            self._move(lieutenant, Status.PAUSED, reason)

    def _restart_orphaned(self) -> None:
        for lieutenant in runtime.orphaned():
            self._move(lieutenant, Status.STARTING, "it had no process; started again")

    def _move(self, lieutenant: Lieutenant, to: Status, reason: str) -> None:
        try:
            lieutenant.move(to, reason=reason)
        except (LostRace, IllegalMove) as error:
            logger.info("%s", error)
            return
        pk = lieutenant.pk
        self._in_background(lambda: runtime.converge(pk))

    def _in_background(self, work: Callable[[], None]) -> None:
        """Run in a thread: starting and stopping take time, and journals must not wait for it."""

        def run() -> None:
            try:
                with self._settling:
                    work()
            except Exception:
                logger.exception("settling failed; the next reconcile tries again")
            finally:
                connections.close_all()

        threading.Thread(target=run, name="reef-settle", daemon=True).start()
