"""Tools for agents: create lieutenants, talk to them, wait for them, and control them."""

from __future__ import annotations

from lieutenants.tools import control, next_signs, questions, reading, signals, waiting

TOOLS = (
    *control.TOOLS,
    *reading.TOOLS,
    *waiting.TOOLS,
    *signals.TOOLS,
    *questions.TOOLS,
    *next_signs.TOOLS,
)
