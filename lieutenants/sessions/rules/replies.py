"""Replies of the agent to commands, by what was asked."""

from __future__ import annotations

from lieutenants.agents import events
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.rules import Rule, Step, receipts, rewinding, settling, start
from lieutenants.sessions.state import State


def _reply(state: State, reply: events.Reply, facts: Facts) -> Step:
    command, content = reply.request_id, reply.content
    if command and command == state.rewinding:
        return rewinding.on_reply(state, reply, facts)
    if isinstance(content, events.AgentState):
        if not state.is_ready:
            return start.ready(state, content, facts)
        if command == f"{settling.STATE_QUERY}{state.barrier}":
            return settling.state_reply(state, content, facts)
        return state, []
    if command == start.MODELS_QUERY:
        return start.models_listed(state, reply, facts)
    if command.startswith(settling.CONTEXT_QUERY):
        return settling.context_reply(state, reply, facts)
    if isinstance(content, events.QueueReturned):
        return receipts.queue_returned(state, content, facts, success=reply.success)
    if command and not command.startswith("~"):
        return receipts.receipt(state, reply, facts)
    return state, []


RULES: dict[type, Rule] = {events.Reply: _reply}
