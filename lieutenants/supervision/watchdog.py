"""Time-based checks of the follower: liveness, stalls, restarts, idle limits, aborts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.utils import timezone

from lieutenants import membership_reconcile
from lieutenants.exceptions import ProgressLost
from lieutenants.hosts import fences, sharing, strays, takeover
from lieutenants.hosts import services as hosts
from lieutenants.messages import rewinding
from lieutenants.models import Lieutenant, LifeSign, Process
from lieutenants.sessions import inputs
from lieutenants.sessions.session import Session
from lieutenants.sessions.write_batch import check_still_ours, save_progress
from lieutenants.states import MessageState, Status
from lieutenants.supervision import runtime
from lieutenants.supervision.checks.background import Background
from lieutenants.supervision.checks.lost_processes import LostProcesses
from lieutenants.supervision.checks.silence import SilenceLimits
from lieutenants.supervision.contacts import Contacts
from lieutenants.supervision.reachability import Reachability
from lieutenants.supervision.transports import transport_of
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
# How long a session that fails by itself is skipped.
SKIP_SECONDS = 30.0
# Time for the rest of a journal to arrive when a machine is in reach again. What it tells may have
# ended long ago.
CATCH_UP_SECONDS = 10.0
# Time between the abort of a stalled answer and the end of its process.
ABORT_SECONDS = 10.0
# After the move, the agent writes to its session at a path that no longer exists.
MOVED_REASON = "its data folder was moved; started again there with what its session has"


class Watchdog:
    """Runs about once a second, and at each event."""

    def __init__(
        self, sessions: dict[str, Session], skipped_until: dict[str, float] | None = None
    ) -> None:
        """Sessions that fail are dropped, and not opened again until the given time."""
        self._sessions = sessions
        self._skipped_until = {} if skipped_until is None else skipped_until
        self.follower_id = new_ulid()
        self._heartbeat_at = -HEARTBEAT_SECONDS
        self._reconciled_at = -RECONCILE_SECONDS
        self._synced_at = -membership_reconcile.INTERVAL_SECONDS
        self._background = Background()
        self._lost = LostProcesses(self._background)
        self._silence = SilenceLimits(self.commit, self._fail_and_stop)
        self._reachability = Reachability()
        self._contacts = Contacts()

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
                self._lost.check_start(process)
                strays.check_stray(process)
                continue
            self._guarded(session, partial(self._check_session, session, process, clock))
        self._save_reachability()
        self._contacts.save(clock)
        self._restart_due()
        self._pause_idle()
        self._restart_orphaned()
        if clock - self._synced_at >= membership_reconcile.INTERVAL_SECONDS:
            self._synced_at = clock
            present = [row.lieutenant_id for row in rows.values() if self._is_running(row)]
            self._background.run(lambda: membership_reconcile.reconcile(present))
        due = clock - self._reconciled_at >= RECONCILE_SECONDS
        if due or (not self._background.is_busy and runtime.may_start_another()):
            self._reconciled_at = clock
            self._background.run(self._reconcile)
        if due:
            self._background.run(scan.scan_host)

    def _guarded(self, session: Session, work: Callable[[], object]) -> bool:
        """Do this for one session; return False if it failed, so that the others go on.

        A session that failed is read again from its rows.
        """
        try:
            work()
        except (OperationalError, InterfaceError):
            raise
        except ProgressLost as error:
            logger.warning("%s: %s", session.process, error)
        except Exception:
            logger.exception("%s cannot be checked; left alone for a while", session.process)
            self._skipped_until[session.process.pk] = time.monotonic() + SKIP_SECONDS
        else:
            return True
        self._sessions.pop(session.process.pk, None)
        return False

    @staticmethod
    def _reconcile() -> None:
        takeover.take_over_silent()
        sharing.take_strays()
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
        self._silence.forget(session.process.pk)
        self._reachability.forget(session.process.pk)
        self._contacts.forget(session.lieutenant)
        transport = transport_of(session.process)
        transport.clean(session.process.directory)
        events.publish_lieutenant(session.lieutenant.pk)
        self._background.run(runtime.reconcile)

    def _check_session(self, session: Session, row: Process, clock: float) -> None:
        is_alive = transport_of(row).alive(row.handle, row.directory)
        if not is_alive and not session.state.is_ended:
            self._end_lost(session, clock)
            return
        out_of_reach = self._reachability.check(session, row, clock)
        self._reachability.show(session, clock)
        out_since = self._reachability.out_since(row.pk, clock)
        self._contacts.note(session, out_since, transport_of(row).silent_seconds())
        self._refresh_process(session, row)
        lieutenant = row.lieutenant
        if lieutenant.abort_asked_at:
            self._abort(session, lieutenant)
        if lieutenant.rewind_to is not None or session.state.rewinding:
            rewinding.advance(session, lieutenant, clock)
        if lieutenant.status == Status.WORKING and row.ready_at and not session.state.is_busy:
            session.handle(inputs.WorkSeen())
        if session.recorder.floods.is_due(timezone.now()):
            # Even when the agent prints nothing more.
            self.commit(session, inputs.OmissionsDue())
        if strays.must_restart(row, lieutenant) and row.stop_asked_at is None:
            self._restart_moved(row, lieutenant)
        elif out_of_reach and transport_of(row).is_remote:
            self._silence.note_out_of_reach(session, clock)
        elif session.state.dialogs:
            self._silence.note_dialog(session, clock)
        elif lieutenant.should_run and row.stop_asked_at is None:
            self._silence.check(session, lieutenant, clock, out_of_reach)

    @staticmethod
    def _refresh_process(session: Session, row: Process) -> None:
        session.refresh_process(row)
        if (seen := session.overtaken_by) is not None:
            session.overtaken_by = None
            fences.catch_up(session.process, seen)

    # -- processes -----------------------------------------------------------------------

    def _restart_moved(self, row: Process, lieutenant: Lieutenant) -> None:
        """Restart an idle agent whose paths no longer exist since its folder was moved."""
        Process.objects.filter(pk=row.pk).update(stop_asked_at=timezone.now())
        self._move(lieutenant, Status.STARTING, MOVED_REASON)

    def _end_lost(self, session: Session, clock: float) -> None:
        is_first_check = clock - session.opened_at < FIRST_CHECK_SECONDS
        if self._lost.end(session, while_away=session.was_ready and is_first_check):
            self._sessions.pop(session.process.pk, None)
            self.after_end(session)

    def _save_reachability(self) -> None:
        """Save the collected changes of all sessions in one transaction; if that fails, one by one.

        Many change together when a network is lost.
        """
        noted = [each for each in self._reachability.take_changed() if not each.state.is_ended]
        if not noted:
            return
        try:
            saved = noted
            self._save(noted)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            logger.exception("the reachability of sessions is saved one by one")
            saved = [each for each in noted if self._guarded(each, partial(self._save, [each]))]
        for session in saved:
            events.publish_lieutenant(session.lieutenant.pk)

    @staticmethod
    def _save(sessions: list[Session]) -> None:
        with transaction.atomic():
            for session in sessions:
                session.store_state()
            save_progress(sessions)

    @staticmethod
    def commit(session: Session, given: inputs.Request) -> None:
        """Apply an input outside of a pass, and publish that the lieutenant changed."""
        session.commit(given)
        events.publish_transcripts({session.lieutenant.pk: session.lieutenant.rev})

    def _fail_and_stop(self, session: Session, reason: str) -> None:
        with transaction.atomic():
            check_still_ours([session.process])
            session.handle(inputs.ProcessUseless(reason))
        pk = session.lieutenant.pk
        self._background.run(lambda: runtime.converge(pk))

    def _abort(self, session: Session, lieutenant: Lieutenant) -> None:
        here = Lieutenant.objects.here()
        mine = here.filter(pk=lieutenant.pk, abort_asked_at=lieutenant.abort_asked_at)
        if not mine.update(abort_asked_at=None):
            return
        # The service withdraws them at the time of the request.
        withdrawn = lieutenant.messages.filter(
            state=MessageState.REJECTED, decided_at=lieutenant.abort_asked_at
        )
        self.commit(session, inputs.AbortAsked(str(int(time.time() * 1000)), withdrawn.count()))

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
        self._background.run(lambda: runtime.converge(pk))
