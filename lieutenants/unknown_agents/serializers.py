"""Responses of the API of unknown agents, in the wire format."""

from __future__ import annotations

from typing import Any

from lieutenants.unknown_agents.models import Request, UnknownAgent
from reef_site.common.api.fields import Choice, Flag, Text, Timestamp, WholeNumber
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import ResponseBody


class UnknownAgentResponse(ResponseBody):
    """An agent that runs without being followed."""

    run = Text()
    host = Text()
    lieutenantId = Text(source="lieutenant_id")
    name = Text(allow_null=True, help_text="Its lieutenant, if one is known.")
    agentPid = WholeNumber(allow_null=True)
    why = Text(help_text="Why nobody follows it.")
    canBeTakenUp = Flag(source="can_be_taken_up")
    foundAt = Timestamp(source="found_at")
    request = Choice(Request.values, allow_null=True)
    problem = Text(allow_null=True, help_text="Why the newest request came to nothing.")

    example = {
        "run": "01JD9Z3K8Q5V7W2X4Y6A8B0C1D",
        "host": "reef-1",
        "lieutenantId": "01JD9Z3K8Q5V7W2X4Y6A8B0C1D",
        "name": "ada",
        "agentPid": 4711,
        "why": "Its row says that it has ended.",
        "canBeTakenUp": True,
        "foundAt": "2026-11-22T06:25:10.120Z",
        "request": None,
        "problem": None,
    }


_read = object_reader(UnknownAgentResponse, "agentPid", blank_as_null=True)


def unknown_agent_json(row: UnknownAgent) -> dict[str, Any]:
    """Return an unknown agent as JSON."""
    return _read(row) | {"agentPid": row.handle.get("agent_pid")}
