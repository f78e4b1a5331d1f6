"""Trouble with the model, compactions, extensions, floods, and keepers that do not respond."""

from __future__ import annotations

from lieutenants.agents import events, provider_errors
from lieutenants.sessions import effects, inputs
from lieutenants.sessions.effects import (
    AddEntry,
    AddLimitedEntry,
    Effect,
    Send,
    SetTrouble,
    Verb,
)
from lieutenants.sessions.floods import megabytes
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.rules import Rule, Step
from lieutenants.sessions.state import State, replace

READY_QUERY = "~ready-"
# An agent that says it waits for longer is not believed.
MAX_DELAY_SECONDS = 7 * 86_400.0
_NO_TROUBLE, _DROP_FAILED_TEXTS = SetTrouble(""), effects.DropFailedTexts()


# -- retries and compactions -------------------------------------------------------------------


def _retry_started(state: State, event: events.RetryStarted, facts: Facts) -> Step:
    text = (
        f"{event.failure or 'The model failed'} · try {event.attempt} of "
        f"{event.max_attempts} in {event.delay_ms / 1000:g} s"
    )
    entry = AddLimitedEntry("retry", facts.at, text, data={"retry": event.details})
    after = replace(
        state,
        retrying=True,
        retry_at=facts.at.timestamp() + min(event.delay_ms / 1000, MAX_DELAY_SECONDS),
        limited=provider_errors.is_limit(event.failure),
    )
    return after, [_DROP_FAILED_TEXTS, SetTrouble(text), entry]


def _retry_ended(state: State, event: events.RetryEnded, facts: Facts) -> Step:
    after = replace(state, retrying=False, retry_at=0.0, limited=False)
    if event.success:
        return after, [_NO_TROUBLE]
    failure = event.failure or "The model failed"
    text, data = f"No more tries: {failure}", {"retry": event.details}
    entry = AddLimitedEntry("retry", facts.at, text, data=data, is_error=True)
    return replace(after, failure=failure), [SetTrouble(failure), entry]


def _compaction_started(state: State, event: events.CompactionStarted, facts: Facts) -> Step:
    reasons = {"requested": "it was asked to"}
    why = reasons.get(event.reason, f"it is {event.reason}")
    text = f"The agent shortens its context: {why}."
    after = replace(state, compacting=state.compacting + 1, settled=False)
    data = {"compaction": event.details}
    return after, [AddLimitedEntry("compaction", facts.at, text, data=data)]


def _compaction_ended(state: State, event: events.CompactionEnded, facts: Facts) -> Step:
    found: list[Effect] = [_DROP_FAILED_TEXTS] if event.will_retry else []
    if event.success:
        text = f"Context shortened from {event.tokens_before} tokens."
        found += [effects.CountUsage(facts.at, event.usage, "compaction"), _NO_TROUBLE]
    else:
        text = event.failure or "The context was not shortened."
        found.append(SetTrouble("" if event.aborted else text))
    data = {"compaction": event.details}
    found.append(
        AddLimitedEntry("compaction", facts.at, text, data=data, is_error=not event.success)
    )
    after = replace(
        state,
        compacting=max(0, state.compacting - 1),
        context_changed=True,
        retrying=event.will_retry,
        retry_at=0.0,
        limited=False,
    )
    return after, found


# -- extensions --------------------------------------------------------------------------------


def command_above(state: State, facts: Facts) -> list[Effect]:
    """Return the effect that shows a running command above its output."""
    return [effects.ShowCommand(state.inflight, facts.at)] if state.inflight else []


def _extension_error(state: State, event: events.ExtensionError, facts: Facts) -> Step:
    text = f"Extension {event.extension}: {event.text}"
    entry = AddLimitedEntry("extension_error", facts.at, text, kind=effects.ERROR, is_error=True)
    return state, [*command_above(state, facts), entry]


def _notice(state: State, event: events.Notice, facts: Facts) -> Step:
    entry = AddLimitedEntry("notify", facts.at, event.text)
    return state, [*command_above(state, facts), entry]


# -- the keeper's notes ------------------------------------------------------------------------


def _garbage(state: State, note: inputs.Garbage, facts: Facts) -> Step:
    text = f"The agent printed an invalid line: {note.text}"
    return state, [AddLimitedEntry("garbage", facts.at, text, is_error=True)]


def _long_line(state: State, note: inputs.LongLine, facts: Facts) -> Step:
    text = f"A line of {note.size} bytes was left out."
    return state, [AddLimitedEntry("line", facts.at, text, is_error=True)]


def _omitted(state: State, note: inputs.Omitted, facts: Facts) -> Step:
    return state, [effects.CountOmitted(facts.at, note.cause, note.count, note.size)]


def _flood_over(state: State, note: inputs.FloodOver, _facts: Facts) -> Step:
    return state, [effects.EndFlood(note.cause)]


def _output_lost(state: State, note: inputs.OutputLost, facts: Facts) -> Step:
    text = f"{megabytes(note.size)} of the agent's output are lost."
    found: list[Effect] = [AddEntry(facts.at, text, is_error=True)]
    if not state.is_ready:
        # Its first reply may be lost with it: one to another query makes it ready, too.
        found.append(Send(Verb.QUERY_STATE, f"{READY_QUERY}{note.size}"))
    return state, found


def _warned(state: State, note: inputs.Warned, facts: Facts) -> Step:
    """Show a warning, at the latest when the agent is ready."""
    if state.is_ready:
        return state, [AddEntry(facts.at, note.text, is_error=True)]
    return replace(state, notes=(*state.notes, note.text)), []


def _omissions_due(state: State, _due: inputs.OmissionsDue, facts: Facts) -> Step:
    return state, [effects.ReportOmitted(facts.at)]


# -- the keeper --------------------------------------------------------------------------------


def _trouble_found(state: State, found: inputs.TroubleFound, _facts: Facts) -> Step:
    return state, [SetTrouble(found.text)]


def _trouble_over(state: State, over: inputs.TroubleOver, _facts: Facts) -> Step:
    if over.hidden is not None:
        return state, [SetTrouble(over.hidden)]
    failure = state.failure if state.stop_reason == events.ERROR else ""
    return state, [effects.RestoreTrouble(failure)]


RULES: dict[type, Rule] = {
    events.RetryStarted: _retry_started,
    events.RetryEnded: _retry_ended,
    events.CompactionStarted: _compaction_started,
    events.CompactionEnded: _compaction_ended,
    events.ExtensionError: _extension_error,
    events.Notice: _notice,
    inputs.Garbage: _garbage,
    inputs.LongLine: _long_line,
    inputs.Omitted: _omitted,
    inputs.FloodOver: _flood_over,
    inputs.OutputLost: _output_lost,
    inputs.Warned: _warned,
    inputs.OmissionsDue: _omissions_due,
    inputs.TroubleFound: _trouble_found,
    inputs.TroubleOver: _trouble_over,
}
