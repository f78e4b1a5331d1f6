"""The session as a pure function: state, input and facts give the next state and its effects.

There is a rule for each input of `inputs.py`, and for each neutral event of the dialects but those
that are only recorded (`writers.transcript.EVENT_WRITERS`). `session.Session` is the shell around
it, which reads the facts, and lets the recorder turn the effects into rows.
"""

from __future__ import annotations

from lieutenants.agents.events import Event
from lieutenants.sessions.inputs import Facts, Request
from lieutenants.sessions.rules import (
    Rule,
    Step,
    dialogs,
    endings,
    receipts,
    replies,
    rewinding,
    runs,
    settling,
    trouble,
)
from lieutenants.sessions.state import State

RULES: dict[type, Rule] = {
    **runs.RULES,
    **receipts.RULES,
    **replies.RULES,
    **trouble.RULES,
    **dialogs.RULES,
    **settling.RULES,
    **rewinding.RULES,
    **endings.RULES,
}


def reduce(state: State, given: Event | Request, facts: Facts) -> Step:
    """Return the state after an input, and the effects in the order in which they happen."""
    return RULES[type(given)](state, given, facts)
