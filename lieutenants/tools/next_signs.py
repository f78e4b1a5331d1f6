"""The tool by which an agent says when it will be heard of again."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from lieutenants import services
from lieutenants.models import Lieutenant
from lieutenants.requests import NextSignBody, due_of
from lieutenants.serializers import lieutenants_json
from reef_site.common.api.fields import Flag, Text
from reef_site.common.clock import format_timestamp
from reef_site.common.errors import BadInput
from reef_site.common.text import format_duration
from reef_site.common.tools import Tool, ToolResult
from vmtree import permissions
from vmtree.permissions import Action

Json = dict[str, Any]


class NextSignArguments(NextSignBody):
    reason = Text(  # type: ignore[assignment]
        required=False, help_text="Why it takes so long, such as: the tests run. It is required."
    )
    name = Text(required=False, help_text="Of which lieutenant; absent for yourself.")
    withdraw = Flag(default=False, help_text="Withdraw what was declared, and nothing else.")


def next_sign(caller: object, arguments: Json) -> ToolResult:
    name = arguments.get("name") or _own_name(caller)
    if arguments.pop("withdraw"):
        found = services.withdraw_sign(name, actor=caller)
        return ToolResult(f"{name}: no sign is declared.", _details(found, caller))
    found = services.declare_sign(
        name,
        due_of(arguments),
        arguments.get("reason") or "",
        grace=arguments.get("grace"),
        actor=caller,
    )
    due = found.next_sign_at
    assert due is not None
    lines = [f"{name}: the next sign is due at {format_timestamp(due)}."]
    seconds = (due - timezone.now()).total_seconds()
    if 0 < found.tool_limit_seconds < seconds:
        limit = format_duration(found.tool_limit_seconds)
        lines.append(f"One tool call may still run for {limit} only.")
    return ToolResult("\n".join(lines), _details(found, caller))


def _details(row: Lieutenant, caller: object) -> Json:
    return {"lieutenant": lieutenants_json([row], caller=caller, brief=True)[0]}


def _own_name(caller: object) -> str:
    """Return the name of the calling agent's lieutenant. Raises BadInput."""
    node = permissions.node_of(caller)
    own = Lieutenant.objects.active().filter(pk=node.vm_id).first() if node else None
    if own is None:
        raise BadInput("name: is required, as the caller is no lieutenant", "name")
    return own.name


TOOLS = (
    Tool(
        "reef_next_sign",
        "Say when you will be heard of again and why, before work that is silent for long, such "
        "as a test run. Until then your silence worries nobody; after it, people are told the "
        "reason. The end of your turn ends it.",
        NextSignArguments,
        next_sign,
        action=Action.WRITE,
    ),
)
