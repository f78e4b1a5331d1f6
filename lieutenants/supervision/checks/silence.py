"""Limits on silence: of an agent that starts, of a model, of tools, and of a keeper."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.conf import settings
from django.utils import timezone

from lieutenants.models import Entry, Lieutenant
from lieutenants.sessions import inputs
from lieutenants.sessions.session import Session
from lieutenants.sessions.tool_limits import ToolClock, describe_calls
from lieutenants.states import LimitAction, Status
from reef_site.common.text import format_duration

logger = logging.getLogger(__name__)

# Time for the rest of a journal to arrive when a machine is in reach again. What it tells may have
# ended long ago.
CATCH_UP_SECONDS = 10.0
# Time between the abort of a stalled answer and the end of its process.
ABORT_SECONDS = 10.0


class SilenceLimits:
    """Aborts an answer that is silent for too long, and then ends its process."""

    def __init__(
        self,
        commit: Callable[[Session, inputs.Request], None],
        fail_and_stop: Callable[[Session, str], None],
    ) -> None:
        """`commit` applies an input, `fail_and_stop` ends the process for a reason."""
        self._commit = commit
        self._fail_and_stop = fail_and_stop
        self._aborted_at: dict[str, float] = {}
        self._tool_clocks: dict[str, ToolClock] = {}
        # When a process was out of reach, or waited for a person, for the last time.
        self._in_reach_since: dict[str, float] = {}

    def forget(self, process_id: str) -> None:
        """Drop an ended process."""
        for known in (self._aborted_at, self._tool_clocks, self._in_reach_since):
            known.pop(process_id, None)

    def note_out_of_reach(self, session: Session, clock: float) -> None:
        """Count no silence: the agent goes on meanwhile, and what it says arrives later."""
        self._in_reach_since[session.process.pk] = clock

    def note_dialog(self, session: Session, clock: float) -> None:
        """Count no silence: the agent waits for a person."""
        pk = session.process.pk
        self._in_reach_since[pk] = clock
        calls = [each.pk for each in session.recorder.results.values() if each.pk is not None]
        self._tool_clocks.setdefault(pk, ToolClock()).pause(calls, clock)

    def check(
        self, session: Session, lieutenant: Lieutenant, clock: float, out_of_reach: float
    ) -> None:
        """Act if a limit has passed. `out_of_reach` is for how long its keeper has not answered."""
        in_reach_since = self._in_reach_since.get(session.process.pk)
        if in_reach_since is not None and clock - in_reach_since < CATCH_UP_SECONDS:
            return
        in_reach_since = in_reach_since or 0.0
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
        if (until := session.state.waiting_until) and until > timezone.now():
            # It is known when the agent tries again; the time until then is no silence.
            self._in_reach_since[session.process.pk] = clock - CATCH_UP_SECONDS
            in_reach_since = clock
        silence = clock - max(session.state.last_record_at, in_reach_since)
        overdue = self._overdue_calls(session, lieutenant.tool_limit_seconds, clock)
        if overdue:
            what = _overlong_tool(overdue, lieutenant.tool_limit_seconds)
        else:
            what = _silent_model(session, limit, silence)
        if what and lieutenant.limit_action == LimitAction.NOTE:
            self._note(session, what, overdue, lieutenant.tool_limit_seconds)
        elif what:
            self._abort(session, what, clock)
        else:
            self._aborted_at.pop(session.process.pk, None)

    def _note(self, session: Session, what: str, overdue: list[Entry], limit: int) -> None:
        """Say in the transcript that a limit has passed, once for each call and each silent wait.

        The session's state remembers that, so that the next follower does not say it again.
        """
        noted = session.state.noted_calls
        # The same whether the model has begun to write or not: that is one call.
        wait = "" if overdue else session.state.waiting_for()
        new = [each for each in overdue if each.pk not in noted]
        if not new and (overdue or wait == session.state.noted_wait):
            return
        if new:
            what = _overlong_tool(new, limit)
        running = {each.pk for each in session.recorder.results.values()}
        calls = (*(pk for pk in noted if pk in running), *(each.pk for each in new))
        self._commit(
            session, inputs.LimitPassed(f"{what}. Its settings only note that.", calls, wait)
        )

    def _abort(self, session: Session, what: str, clock: float) -> None:
        """Abort the answer; if that does not help, end the process."""
        aborted_at = self._aborted_at.setdefault(session.process.pk, clock)
        if aborted_at == clock:
            text = f"{what}: reef aborts this answer."
            logger.warning("%s: %s", session.lieutenant, text)
            self._commit(session, inputs.Stalled(str(int(clock)), text))
        elif clock - aborted_at > ABORT_SECONDS:
            self._fail_and_stop(
                session,
                f"{what}; an abort did not help, so its process was ended.",
            )

    def _overdue_calls(self, session: Session, limit: int, clock: float) -> list[Entry]:
        """Return the running tool calls past their limit."""
        tools = self._tool_clocks.setdefault(session.process.pk, ToolClock())
        running = [each for each in session.recorder.results.values() if each.pk is not None]
        tools.keep_only((each.pk for each in running), clock)
        took = {each.pk: tools.seconds(each, clock) for each in running}
        if not limit or not session.state.running:
            return []
        return [each for each in running if took[each.pk] >= limit]


def _overlong_tool(overdue: list[Entry], limit: int) -> str:
    """Return a text about tool calls past their limit."""
    return f"Tool {describe_calls(overdue)} ran longer than its limit of {format_duration(limit)}"


def _silent_model(session: Session, limit: int, silence: float) -> str:
    """Return a text about a silence past its limit; empty if it may last, or tools run."""
    waiting_for = session.waiting_for()
    if not limit or silence < limit or not waiting_for or session.recorder.results:
        return ""
    return f"Silent for {format_duration(int(silence))} while waiting for {waiting_for}"
