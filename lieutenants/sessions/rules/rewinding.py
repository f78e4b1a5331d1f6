"""Going back to before a message: list the agent's messages, fork, ask which file it continues.

`State.rewinding` is the id of the pending command; its beginning tells which of the three it is.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from lieutenants.agents import events
from lieutenants.sessions import effects, inputs
from lieutenants.sessions.effects import AddEntry, Effect, Send, Verb
from lieutenants.sessions.inputs import Facts
from lieutenants.sessions.rules import Rule, Step
from lieutenants.sessions.state import State, replace

REPLY_SECONDS = 10.0
SESSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.jsonl")
LIST, FORK, FILE = "~rewind-", "~fork-", "~forked-"


def _check(state: State, check: inputs.RewindCheck, _facts: Facts) -> Step:
    """Begin a requested rewind, or continue one whose last command got no reply."""
    if state.rewinding:
        if state.rewind_at is None:
            return replace(state, rewind_at=check.clock), []
        if check.clock - state.rewind_at > REPLY_SECONDS:
            return _on_time_out(state, check)
        return state, []
    if check.entry is None or not state.is_ready or state.is_ended:
        return state, []
    if state.is_busy or state.inflight:
        return state, []
    command = f"{LIST}{check.mark}"
    after = replace(
        state,
        rewinding=command,
        rewind_at=check.clock,
        rewind_to=check.entry,
        is_at_rest=False,
    )
    return after, [Send(Verb.LIST_MESSAGES, command)]


def _on_time_out(state: State, check: inputs.RewindCheck) -> Step:
    """Query the session file after a timeout: it tells whether the fork happened."""
    after = replace(state, rewind_at=check.clock)
    if state.rewinding.startswith(FILE):
        # A new id, since the keeper passes each id on once.
        return _query_file(after, check.mark)
    return _query_file(after)


def _query_file(state: State, mark: str = "") -> Step:
    command = f"{FILE}{mark or state.rewinding.rpartition('-')[2]}"
    return replace(state, rewinding=command), [Send(Verb.QUERY_STATE, command)]


def on_reply(state: State, reply: events.Reply, facts: Facts) -> Step:
    """Handle the agent's reply to one of the three commands."""
    command, content = state.rewinding, reply.content
    state = replace(state, rewind_at=None)
    if not reply.success:
        return _fail(state, f"the agent refused: {reply.error}", facts)
    if command.startswith(LIST):
        return _fork(state, facts)
    if command.startswith(FORK):
        if isinstance(content, events.SessionForked) and content.cancelled:
            return _fail(state, "an extension of the agent forbids it", facts)
        return _query_file(state)
    file = content.session_file if isinstance(content, events.AgentState) else ""
    return _finish(state, file, facts)


def cancel(state: State, facts: Facts) -> Step:
    """Cancel the rewind because the process ends."""
    if state.rewinding or facts.rewind_requested:
        return _fail(state, "its agent ended first", facts)
    return state, []


def _fork(state: State, facts: Facts) -> Step:
    if not facts.rewind_target:
        why = "the agent does not have this message in its session any more"
        return _fail(state, why, facts)
    if facts.was_sent_since:
        return _fail(state, "a message was sent meanwhile", facts)
    command = f"{FORK}{state.rewinding.removeprefix(LIST)}"
    fork = Send(Verb.FORK, command, facts.rewind_target)
    return replace(state, rewinding=command), [fork]


def _finish(state: State, file: str, facts: Facts) -> Step:
    name = PurePosixPath(file).name
    if not SESSION_NAME.fullmatch(name) or name == facts.session_name:
        return _fail(state, "the agent still continues the same session", facts)
    went = effects.GoBack(state.rewind_to, facts.session_name, name, facts.at)
    return _cleared(state), [went]


def _fail(state: State, why: str, facts: Facts) -> Step:
    """Report that the rewind failed; the session is unchanged."""
    text = f"Could not go back to before a message: {why}."
    found: list[Effect] = [effects.ClearRewind(), AddEntry(facts.at, text, is_error=True)]
    return _cleared(state), found


def _cleared(state: State) -> State:
    return replace(state, rewinding="", rewind_to=0, rewind_at=None)


RULES: dict[type, Rule] = {inputs.RewindCheck: _check}
