"""Coming to rest: an agent is idle once it has nothing left to do and no message is pending."""

from __future__ import annotations

from lieutenants.agents import events
from lieutenants.sessions import effects, inputs
from lieutenants.sessions.effects import Effect, Send, Verb
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.rules import Rule, Step
from lieutenants.sessions.state import State, replace
from lieutenants.states import MessageState, Status

STATE_QUERY, CONTEXT_QUERY = "~state-", "~stats-"
STATE_QUERY_SECONDS = 3.0
STATE_QUERY_INTERVAL = 0.3  # between two state queries
SETTLE_CHECK_SECONDS = 0.2
# An idle agent that reports queued messages this often in a row has forgotten them.
MAX_STUCK_REPLIES = 5

_ACCEPTED = frozenset({MessageState.ACCEPTED})
_WORKING = frozenset({Status.WORKING})
_RUNNING = frozenset({Status.IDLE, Status.WORKING})


def is_check_due(state: State, clock: float) -> bool:
    """Return whether it is time to check if the agent has settled."""
    if state.is_at_rest or clock - state.settle_checked_at < SETTLE_CHECK_SECONDS:
        return False
    return state.is_quiet


def needs_pending(state: State) -> bool:
    """Return whether a check needs the states of the pending messages."""
    return state.settled and state.is_quiet


def _records_read(state: State, read: inputs.RecordsRead, _facts: Facts) -> Step:
    last = read.clock if read.is_sign_of_life else state.last_record_at
    return replace(state, is_at_rest=False, last_record_at=last), []


def _work_seen(state: State, _seen: inputs.WorkSeen, _facts: Facts) -> Step:
    return (replace(state, is_at_rest=False) if state.is_at_rest else state), []


def _check(state: State, check: inputs.SettleCheck, facts: Facts) -> Step:
    state = replace(state, settle_checked_at=check.clock)
    if not state.is_quiet:
        return state, []
    if not state.settled:
        return _query_state(state, check.clock)
    if facts.pending - _ACCEPTED:
        return state, []
    if facts.pending and not state.confirmed:
        # Accepted messages that have not begun may still be in the agent's queue.
        return replace(state, settled=False, unconfirmed=True), []
    found: list[Effect] = [effects.CloseAnswer(facts.at, state.outcome(), state.failure)]
    if facts.pending:
        found += [effects.FinishCommands(facts.at), effects.MarkAllBegun(facts.at)]
    found.append(effects.MoveStatus(Status.IDLE, state.idle_reason(), _WORKING))
    after = replace(state, is_at_rest=True)
    if state.context_changed and not state.asked_stats and state.features.context:
        # Once after each change of the context.
        after = replace(after, asked_stats=True, stats_asked=state.stats_asked + 1)
        found.append(Send(Verb.QUERY_CONTEXT, f"{CONTEXT_QUERY}{after.stats_asked}"))
    return after, found


def _query_state(state: State, clock: float) -> Step:
    """Query the agent's state; its reply comes after all its earlier output."""
    will_tell = state.settles and state.ran and not state.unconfirmed
    if will_tell and clock - state.last_record_at < state.patience:
        return state, []
    if state.state_queried_at is None:
        if clock < state.next_query_at:
            return state, []
        after = replace(state, state_queried_at=clock, barrier=state.barrier + 1)
        return after, [Send(Verb.QUERY_STATE, f"{STATE_QUERY}{after.barrier}")]
    if clock - state.state_queried_at > STATE_QUERY_SECONDS:
        # An agent that does not know the query has sent all its output by now.
        return replace(state, state_queried_at=None, settled=True, confirmed=True), []
    return state, []


def state_reply(state: State, reply: events.AgentState, facts: Facts) -> Step:
    """Handle the reply to the newest state query."""
    rests = not reply.is_working and not state.is_busy
    is_settled = rests and not reply.has_queue
    after = replace(
        state,
        state_queried_at=None,
        next_query_at=state.last_record_at + STATE_QUERY_INTERVAL,
        unconfirmed=False,
        settled=is_settled,
        confirmed=is_settled,
        stuck_replies=state.stuck_replies + 1 if rests and reply.has_queue else 0,
    )
    if after.stuck_replies != MAX_STUCK_REPLIES or facts.stop_asked:
        return after, []
    return after, _restart_stuck(state, facts)


def _restart_stuck(state: State, facts: Facts) -> list[Effect]:
    """Restart an idle agent that does not begin accepted messages: that empties its queue."""
    found: list[Effect] = []
    if state.stop_reason == events.ABORTED:
        found.append(effects.WithdrawUnstarted(facts.at))
    reason = "its agent did not begin messages that it accepted; started again"
    stop = (effects.RequestStop(facts.at),)
    return [*found, effects.MoveStatus(Status.STARTING, reason, _RUNNING, then=stop)]


def context_reply(state: State, reply: events.Reply, facts: Facts) -> Step:
    """Handle the reply about the context; one that has no usage clears the stored one."""
    after = replace(state, asked_stats=False, context_changed=False)
    if facts.stop_asked:
        # The successor may have a new session, which this figure is not about.
        return after, []
    figures = reply.content.figures if isinstance(reply.content, events.ContextUsage) else None
    return after, [effects.StoreContextUsage(figures)]


RULES: dict[type, Rule] = {
    inputs.RecordsRead: _records_read,
    inputs.WorkSeen: _work_seen,
    inputs.SettleCheck: _check,
}
