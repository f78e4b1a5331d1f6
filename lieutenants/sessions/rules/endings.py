"""End of a process, aborts of its answer, and the next status of its lieutenant."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from lieutenants.sessions import effects, inputs
from lieutenants.sessions.effects import AddEntry, Effect, EndProcess, MoveStatus, Send, Verb
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.rules import Rule, Step, dialogs, rewinding
from lieutenants.sessions.state import State, replace
from lieutenants.states import MAX_RESTARTS, RUNNING, Outcome, RestartPolicy, Status

# Delay before the first restart after a crash; doubled for each further one.
FIRST_RESTART_DELAY = 1.0
ENDED_WHILE_AWAY = (
    "Its process ended while reef was away: the machine was restarted, or it was killed."
)
KILLED_FOR_MEMORY = "The agent was killed by the kernel for memory."
# A process that was ready for this long resets the restart counter.
HEALTHY_AFTER = timedelta(seconds=60)

_NO_RESTART: Mapping[str, Any] = {"restart_at": None}
_STOPPED = MoveStatus(
    Status.STARTING,
    "its agent was stopped; started again",
    frozenset({Status.IDLE, Status.WORKING}),
)


# -- ends --------------------------------------------------------------------------------------


def _ended(state: State, end: inputs.ProcessEnded, facts: Facts) -> Step:
    was_asked = facts.stop_asked or end.stopped
    reason = KILLED_FOR_MEMORY if end.killed_for_memory else describe(end.code, end.signal)
    if end.error:
        reason = end.error
    elif was_asked:
        reason = "Stopped as requested."
    row = EndProcess(facts.at, reason, end.code, end.signal, end.stderr)
    after, found = _finish(state, row, facts, report=not was_asked)
    if was_asked:
        # Its row may want it to run although a stop was requested.
        return after, [*found, _STOPPED]
    text = "\n".join(filter(None, [reason, end.stderr]))
    return after, [*found, _failed(text, _next_restart(facts))]


def _lost(state: State, lost: inputs.ProcessLost, facts: Facts) -> Step:
    reason = "Its process vanished: the machine went down, or it was killed."
    if lost.while_away:
        reason = ENDED_WHILE_AWAY
    row = EndProcess(facts.at, reason)
    after, found = _finish(state, row, facts, report=not facts.stop_asked)
    if facts.stop_asked:
        return after, [*found, _STOPPED]
    if facts.restarts >= MAX_RESTARTS and not facts.was_healthy:
        return after, [*found, _failed(reason, _NO_RESTART)]
    restarts = {"restarts": 0 if facts.was_healthy else facts.restarts + 1}
    why = "its process vanished; started again"
    return after, [*found, MoveStatus(Status.STARTING, why, RUNNING, restarts)]


def _unreachable(state: State, end: inputs.ProcessUnreachable, facts: Facts) -> Step:
    after, found = _finish(state, EndProcess(facts.at, end.reason), facts, report=True)
    return after, [*found, _failed(end.reason, _NO_RESTART)]


def _useless(state: State, end: inputs.ProcessUseless, facts: Facts) -> Step:
    return state, stop_useless(end.reason, facts, _next_restart(facts))


def stop_useless(
    reason: str, facts: Facts, columns: Mapping[str, Any] | None = None
) -> list[Effect]:
    """Return the effects that set the lieutenant to error and ask its process to stop."""
    return [effects.RequestStop(_now(facts)), _failed(reason, columns or {})]


def describe(code: int | None, number: int | None) -> str:
    """Describe how a process ended, as text for people."""
    if number is not None:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return f"The agent was killed by {name}."
    return "The agent ended." if code is None else f"The agent ended with exit code {code}."


def _finish(state: State, end: EndProcess, facts: Facts, *, report: bool) -> Step:
    """Close all open rows of the process, and requeue the messages that it did not begin."""
    outcome = state.outcome() if state.ran else Outcome.INTERRUPTED
    found: list[Effect] = [
        effects.CloseBlocks(),
        effects.ReportOmitted(end.at, is_last=True),
        effects.CloseCalls(is_failure=True),
        effects.CloseAnswer(end.at, outcome, state.failure or end.reason),
    ]
    if report:
        text = "\n".join(filter(None, [end.reason, end.stderr]))
        found.append(AddEntry(end.at, text, kind=effects.ERROR, is_error=True))
    found.append(end)
    state, cancelled = rewinding.cancel(state, facts)
    found += [*cancelled, effects.RequeueMessages()]
    if facts.is_destroyed:
        found.append(effects.WithdrawQueued(end.at))
    found += [effects.DropEarlierSeries(), effects.RestoreTrouble()]
    if state.dialogs:
        found.append(effects.WithdrawQuestions(dialogs.AGENT_ENDED, has_ended=True))
    after = replace(state, running=False, retrying=False, inflight="", compacting=0, is_ended=True)
    return replace(after, dialogs=()), found


def _next_restart(facts: Facts) -> dict[str, Any]:
    """Return the columns for the restart policy's next attempt: `restart_at`, `restarts`."""
    done = 0 if facts.was_healthy else facts.restarts
    if facts.restart_policy != RestartPolicy.ON_FAILURE or done >= MAX_RESTARTS:
        return {"restart_at": None, "restarts": done}
    return {"restart_at": _now(facts) + _pause(done), "restarts": done + 1}


def _pause(done: int) -> timedelta:
    return timedelta(seconds=FIRST_RESTART_DELAY * 2**done)


def _now(facts: Facts) -> datetime:
    return facts.now or facts.at


def _failed(reason: str, columns: Mapping[str, Any]) -> MoveStatus:
    if columns.get("restart_at"):
        reason += f"\nIt is started again: try {columns['restarts']} of {MAX_RESTARTS}."
    elif columns.get("restarts", 0) >= MAX_RESTARTS:
        reason += f"\nIt was started again {MAX_RESTARTS} times; there are no more attempts."
    return MoveStatus(Status.ERROR, reason, RUNNING, {**columns, "error": reason})


# -- aborts ------------------------------------------------------------------------------------


def _abort_asked(state: State, asked: inputs.AbortAsked, facts: Facts) -> Step:
    found: list[Effect] = dialogs.withdraw_all(state, dialogs.ABORTED)
    found.append(Send(Verb.ABORT, f"~abort-{asked.mark}"))
    if state.clears_queue:
        found.insert(0, Send(Verb.CLEAR_QUEUE, f"~clear-{asked.mark}"))
    if asked.withdrawn:
        found.append(AddEntry(facts.at, effects.withdrawal_text(asked.withdrawn)))
    return replace(state, is_at_rest=False), found


def _stalled(state: State, stalled: inputs.Stalled, facts: Facts) -> Step:
    """Add a notice that reef aborts the answer, with the reason."""
    found: list[Effect] = [
        AddEntry(facts.at, stalled.text, is_error=True),
        effects.SetTrouble(stalled.text),
        Send(Verb.ABORT, f"~abort-stall-{stalled.mark}"),
        *dialogs.withdraw_all(state, dialogs.ABORTED),
    ]
    return replace(state, is_at_rest=False), found


def _limit_passed(state: State, passed: inputs.LimitPassed, facts: Facts) -> Step:
    """Add a notice, and remember what it is about."""
    wait = passed.wait or state.noted_wait
    after = replace(state, noted_calls=passed.calls, noted_wait=wait)
    return after, [AddEntry(facts.at, passed.text, is_error=True)]


RULES: dict[type, Rule] = {
    inputs.ProcessEnded: _ended,
    inputs.ProcessLost: _lost,
    inputs.ProcessUnreachable: _unreachable,
    inputs.ProcessUseless: _useless,
    inputs.AbortAsked: _abort_asked,
    inputs.Stalled: _stalled,
    inputs.LimitPassed: _limit_passed,
}
