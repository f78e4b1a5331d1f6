"""End of a process, and the next status of its lieutenant."""

from __future__ import annotations

import signal
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from lieutenants.messages import delivery, rewinding
from lieutenants.models import MAX_RESTARTS, Entry, Lieutenant
from lieutenants.sessions import failure_series
from lieutenants.states import RUNNING, Outcome, RestartPolicy, Status

if TYPE_CHECKING:
    from lieutenants.sessions.session import Session

# Delay before the first restart after a crash; doubled for each further one.
FIRST_RESTART_DELAY = 1.0
ENDED_WHILE_AWAY = (
    "Its process ended while reef was away: the machine was restarted, or it was killed."
)
KILLED_FOR_MEMORY = "The agent was killed by the kernel for memory."
# A process that was ready for this long resets the restart counter.
HEALTHY_AFTER = timedelta(seconds=60)


def end(session: Session, facts: dict[str, Any], at: datetime) -> None:
    """Apply the keeper's end record: `code` or `signal`, `stderr` lines, `stopped`, `error`."""
    process = session.process
    process.exit_code = _number(facts.get("code"))
    process.exit_signal = _number(facts.get("signal"))
    lines = facts.get("stderr")
    process.stderr = "\n".join(map(str, lines)) if isinstance(lines, list) else ""
    error = str(facts.get("error") or "")
    for_memory = facts.get("killed_for_memory") is True
    ended = KILLED_FOR_MEMORY if for_memory else describe(process.exit_code, process.exit_signal)
    process.end_reason = error or ended
    was_requested = process.stop_asked_at is not None or bool(facts.get("stopped"))
    if was_requested and not error:
        process.end_reason = "Stopped as requested."
    _finish(session, at, report=not was_requested)
    if was_requested:
        _after_stop(session)
    else:
        _after_death(session)


def end_lost(session: Session, *, while_away: bool = False) -> None:
    """End a process that is gone, together with its keeper, without an end record.

    `while_away` says that it was gone when this follower first checked.
    """
    process = session.process
    process.end_reason = "Its process vanished: the machine went down, or it was killed."
    if while_away:
        process.end_reason = ENDED_WHILE_AWAY
    _finish(session, timezone.now(), report=process.stop_asked_at is None)
    if process.stop_asked_at is not None:
        _after_stop(session)
        return
    lieutenant = Lieutenant.objects.get(pk=session.lieutenant.pk)
    if lieutenant.restarts >= MAX_RESTARTS and not _was_healthy(session):
        _fail(session, process.end_reason, restart_at=None)
        return
    restarts = 0 if _was_healthy(session) else lieutenant.restarts + 1
    session.move_if(
        Status.STARTING, "its process vanished; started again", set(RUNNING), restarts=restarts
    )


def end_unreachable(session: Session, reason: str) -> None:
    """End the row of a process that is out of reach, and set the lieutenant to error."""
    session.process.end_reason = reason
    _finish(session, timezone.now(), report=True)
    _fail(session, reason, restart_at=None)


def fail_and_stop(session: Session, reason: str, *, permanently: bool = False) -> None:
    """Set the lieutenant to error and ask its useless process to stop; the next settle ends it.

    Unless `permanently`, the restart policy may start the lieutenant again.
    """
    process = session.process
    process.stop_asked_at = timezone.now()
    process.save(update_fields=["stop_asked_at"])
    _fail(session, reason, **({} if permanently else _next_restart(session)))


def describe(code: int | None, number: int | None) -> str:
    """Describe how a process ended, as text for people."""
    if number is not None:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return f"The agent was killed by {name}."
    return "The agent ended." if code is None else f"The agent ended with exit code {code}."


def _finish(session: Session, at: datetime, *, report: bool) -> None:
    """Close all open rows of this process, and requeue the messages it did not begin."""
    process = session.process
    session.close_blocks()
    session.report_omitted(at, last=True)
    for entry in session.results.values():
        session.revise(entry, final=True, is_error=True)
    session.results.clear()
    if session.answer:
        outcome = session.memory.outcome() if session.memory.ran else Outcome.INTERRUPTED
        session.close_answer(at, outcome, session.memory.failure or process.end_reason)
    if report:
        text = "\n".join(filter(None, [process.end_reason, process.stderr]))
        session.add(Entry.Kind.ERROR, at, text=text, is_error=True)
    process.ended_at = at
    process.save(update_fields=["ended_at", "exit_code", "exit_signal", "stderr", "end_reason"])
    rewinding.cancel(session, at)
    session.memory.running = session.memory.retrying = False
    session.memory.inflight, session.memory.compacting = "", 0
    delivery.requeue(session.lieutenant)
    if Lieutenant.objects.filter(pk=session.lieutenant.pk, status=Status.DESTROYED).exists():
        delivery.withdraw_queued(session.lieutenant, delivery.DESTROYED, at)
    session.ended = True
    failure_series.drop_earlier_session(session)
    session.lieutenant.trouble = failure_series.trouble(session.lieutenant)


def _after_stop(session: Session) -> None:
    """Start the lieutenant again if its row wants it to run although a stop was requested."""
    session.move_if(
        Status.STARTING, "its agent was stopped; started again", {Status.IDLE, Status.WORKING}
    )


def _after_death(session: Session) -> None:
    reason = "\n".join(filter(None, [session.process.end_reason, session.process.stderr]))
    _fail(session, reason, **_next_restart(session))


def _next_restart(session: Session) -> dict[str, Any]:
    """Return the columns for the restart policy's next attempt: `restart_at`, `restarts`."""
    lieutenant = Lieutenant.objects.get(pk=session.lieutenant.pk)
    done = 0 if _was_healthy(session) else lieutenant.restarts
    if lieutenant.restart_policy != RestartPolicy.ON_FAILURE or done >= MAX_RESTARTS:
        return {"restart_at": None, "restarts": done}
    pause = timedelta(seconds=FIRST_RESTART_DELAY * 2**done)
    return {"restart_at": timezone.now() + pause, "restarts": done + 1}


def _fail(session: Session, reason: str, **fields: Any) -> None:
    if fields.get("restart_at"):
        reason += f"\nIt is started again: try {fields['restarts']} of {MAX_RESTARTS}."
    elif fields.get("restarts", 0) >= MAX_RESTARTS:
        reason += f"\nIt was started again {MAX_RESTARTS} times; there are no more attempts."
    session.move_if(Status.ERROR, reason, set(RUNNING), error=reason, **fields)


def _was_healthy(session: Session) -> bool:
    ready = session.process.ready_at
    return ready is not None and timezone.now() - ready > HEALTHY_AFTER


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None
