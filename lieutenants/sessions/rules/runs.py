"""Runs of the agent, and what it reports in them."""

from __future__ import annotations

from lieutenants.agents import events
from lieutenants.sessions import effects
from lieutenants.sessions.effects import Effect
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.rules import Rule, Step
from lieutenants.sessions.rules.receipts import decide
from lieutenants.sessions.state import SETTLED_TIMEOUT, State, replace
from lieutenants.states import Status

_BEGAN = effects.MoveStatus(
    Status.WORKING, "the agent began to work", origins=frozenset({Status.IDLE})
)
_CLOSE_BLOCKS, _CLOSE_CALLS = effects.CloseBlocks(), effects.CloseCalls()
_NO_TROUBLE = effects.SetTrouble("")


def _started(state: State, _event: events.RunStarted, facts: Facts) -> Step:
    goes_on = state.retrying or state.compacting or not state.ran
    answer: list[Effect] = [effects.OpenAnswer(facts.at), _BEGAN]
    if not goes_on:
        answer.insert(0, effects.CloseAnswer(facts.at, state.outcome(), state.failure))
    after = replace(
        state,
        running=True,
        retrying=False,
        retry_at=0.0,
        limited=False,
        settled=False,
        ran=False,
        context_changed=True,
        patience=SETTLED_TIMEOUT,
        stop_reason="",
        failure="",
        noted_wait="",
    )
    return after, answer


def _ended(state: State, event: events.RunEnded, facts: Facts) -> Step:
    after = replace(
        state,
        running=False,
        ran=True,
        stop_reason=event.stop_reason or state.stop_reason,
        failure=event.failure or state.failure,
        retrying=event.will_retry,
    )
    if not (state.inflight and facts.is_taken_up):
        return after, [_CLOSE_BLOCKS, _CLOSE_CALLS]
    evidence = {"note": "the agent worked through it without a response of its own"}
    after, decision = decide(after, state.inflight, True, evidence, facts.at)
    return after, [_CLOSE_BLOCKS, _CLOSE_CALLS, decision]


def _settled(state: State, event: events.Settled, _facts: Facts) -> Step:
    after = replace(state, settled=not state.is_busy, confirmed=False)
    if event.aborted:
        after = replace(after, stop_reason=events.ABORTED, failure="")
    return after, [_CLOSE_CALLS]


def _turn_ended(state: State, _event: events.TurnEnded, _facts: Facts) -> Step:
    return state, [_CLOSE_CALLS]


def _assistant_message(state: State, event: events.AssistantMessage, facts: Facts) -> Step:
    found: list[Effect] = [effects.RecordMessage(event, facts.at)]
    reason, failure = event.stop_reason, ""
    if reason == events.ERROR and event.is_abort:
        reason = events.ABORTED
    if reason == events.ERROR:
        failure = event.failure or "The model failed without an error message."
        found += [effects.SetTrouble(failure), effects.AddFailure(facts.at, failure)]
    elif reason == events.ABORTED:
        found.append(effects.AddEntry(facts.at, "The answer was aborted."))
    else:
        found.append(_NO_TROUBLE)
    # The next model call may be noted again.
    return replace(state, stop_reason=reason, failure=failure, noted_wait=""), found


RULES: dict[type, Rule] = {
    events.RunStarted: _started,
    events.RunEnded: _ended,
    events.Settled: _settled,
    events.TurnEnded: _turn_ended,
    events.AssistantMessage: _assistant_message,
}
