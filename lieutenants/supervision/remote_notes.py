"""The note about a lieutenant that lies on its machine, from which it can be made again.

It is written at each start. Should the database lose its row, an operator can still have the agent
followed again: see `unknown_agents.recovery`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lieutenants.agents import DEFAULT, DIALECTS
from lieutenants.models import Lieutenant
from lieutenants.sessions.rules.rewinding import SESSION_NAME
from lieutenants.states import LimitAction, RestartPolicy
from reef_site.common.errors import BadInput
from reef_site.common.text import clip, to_storable

# A file in the lieutenant's folder.
NAME = "lieutenant.json"
_TEXTS = {"role": 4000, "directive": 20_000, "model": 200, "folder": 1024, "parent_agent": 200}
_LIMITS = ("stall_limit_seconds", "tool_limit_seconds", "dialog_limit_seconds")
_SIGNS = ("sign_period_seconds", "sign_grace_seconds")
_MAX_LIMIT = 10_000_000
_FIELDS = (
    *("name", *_TEXTS, *_LIMITS, "idle_limit_minutes", "agent", "command", "agent_options"),
    *("restart_policy", "is_taken_over", *_SIGNS, "limit_action"),
)


@dataclass(frozen=True)
class Note:
    """The content of a note: the lieutenant's name, and further columns of its row."""

    name: str
    columns: Mapping[str, Any] = field(default_factory=dict)


def text_of(lieutenant: Lieutenant) -> str:
    """Return the note about a lieutenant. It holds no secrets."""
    facts = {name: getattr(lieutenant, name) for name in _FIELDS}
    return json.dumps(facts, ensure_ascii=False, indent=1)


def parse(given: Mapping[str, Any], session: str = "") -> Note:
    """Return what a note says; `session` is the newest file of the session.

    A machine's agents can change it, so that all is checked. Raises BadInput.
    """
    if not isinstance(given.get("name"), str) or not given["name"].strip():
        raise BadInput("no note on its machine says what it is")
    dialect = DIALECTS.get(_text(given, "agent", 40) or DEFAULT)
    if dialect is None:
        raise BadInput(f"this version has no agent '{_text(given, 'agent', 40)}'")
    columns: dict[str, Any] = {name: _text(given, name, most) for name, most in _TEXTS.items()}
    if columns["model"].startswith("-"):
        raise BadInput("its model must not start with a dash")
    columns |= {"agent": dialect.name, "is_taken_over": given.get("is_taken_over") is True}
    if dialect.features.command:
        columns["command"] = _words(given.get("command"))
        dialect.check_command(columns["command"])
    options = given.get("agent_options")
    columns["agent_options"] = dialect.check_options(options if isinstance(options, dict) else {})
    policy = given.get("restart_policy")
    columns["restart_policy"] = policy if policy in RestartPolicy.values else RestartPolicy.NEVER
    numbers = (*_LIMITS, *_SIGNS)
    columns |= {name: given[name] for name in numbers if _is_number(given.get(name))}
    if given.get("limit_action") in LimitAction.values:
        columns["limit_action"] = given["limit_action"]
    idle = given.get("idle_limit_minutes")
    columns["idle_limit_minutes"] = idle if _is_number(idle) and idle else None
    if SESSION_NAME.fullmatch(session):
        columns["session_name"] = session
    return Note(to_storable(given["name"]), columns)


def _text(given: Mapping[str, Any], name: str, most: int) -> str:
    value = given.get(name)
    return clip(to_storable(value), most) if isinstance(value, str) else ""


def _words(value: object) -> list[str]:
    words = value if isinstance(value, list) else []
    return [to_storable(each) for each in words if isinstance(each, str)]


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_LIMIT
