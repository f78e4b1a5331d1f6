"""Messages on their way to the agent, and the agent's receipts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lieutenants.agents import events
from lieutenants.sessions import effects, inputs
from lieutenants.sessions.effects import Effect
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.rules import Rule, Step
from lieutenants.sessions.state import RUN_START_TIMEOUT, State, replace


def _delivered(state: State, event: inputs.Delivered, _facts: Facts) -> Step:
    after = replace(state, was_settled=state.settled, inflight=event.message, settled=False)
    return after, []


def decide(
    state: State, message: str, is_accepted: bool, evidence: Mapping[str, Any], at: datetime
) -> tuple[State, Effect]:
    """Return state and effect after the agent accepted or rejected a message."""
    inflight = "" if state.inflight == message else state.inflight
    after = replace(state, inflight=inflight, settled=False, patience=RUN_START_TIMEOUT)
    return after, effects.DecideMessage(message, is_accepted, evidence, at)


def receipt(state: State, reply: events.Reply, facts: Facts) -> Step:
    """Handle the reply to a message."""
    message, content, at = reply.request_id, reply.content, facts.at
    disposition = content.disposition if isinstance(content, events.MessageReceipt) else ""
    told = {"disposition": disposition} if disposition else {}
    after, decision = decide(state, message, reply.success, {**reply.evidence, **told}, at)
    found = [decision]
    if disposition == events.HANDLED:
        is_settled = state.was_settled and not state.is_busy
        after = replace(after, patience=0.0, settled=is_settled)
        found.append(effects.MarkHandled(message, at))
    if not reply.success:
        text = f"The agent refused a message: {reply.error}"
        found.append(
            effects.AddLimitedEntry("refusal", at, text, kind=effects.ERROR, is_error=True)
        )
    return after, found


def queue_returned(
    state: State, queue: events.QueueReturned, facts: Facts, *, success: bool
) -> Step:
    """Handle the reply to the command that empties the queue."""
    after = state if success else replace(state, clears_queue=False)
    return after, [effects.WithdrawReturned(queue.texts, facts.at)]


RULES: dict[type, Rule] = {inputs.Delivered: _delivered}
