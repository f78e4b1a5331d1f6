"""Tools for agents: which VMs answer now, and how to register one."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from reef_site.common import clock
from reef_site.common.api.fields import AnyText, Choice, Text
from reef_site.common.api.serializers import Body
from reef_site.common.tools import Tool, ToolResult, json_text
from registry import heartbeat_bodies, services
from registry.models import VM, Role
from registry.serializers import RegistrationBody, to_registration, vms_json
from vmtree import permissions
from vmtree.fields import Dna, VMAlias
from vmtree.permissions import Action
from vmtree.placement import below_caller

Json = dict[str, Any]
DIRECTIONS = ("ancestors", "subtree", "children")


class ListArguments(Body):
    role = AnyText(default="", help_text=f"Only this role: {', '.join(Role.values)}.")
    status = AnyText(default="", help_text="Only this status: running, paused, stopped.")


class RegisterArguments(Body):
    id = Text(blank=False, help_text="Id of the VM.")
    name = Text(blank=False, help_text="Name of the VM.")
    role = Choice(Role.values)
    address = Text(blank=False, help_text="Host name or address by which it is reached.")
    parentVmId = Text(required=False, help_text="Its parent.")
    reefConfig = Dna(required=False, help_text="Its organs and capabilities.")


class RoleArguments(Body):
    role = Text(blank=False, help_text=f"One of {', '.join(Role.values)}.")


class VMArguments(Body):
    id = VMAlias(blank=False, help_text="Id of the VM.")


class LineageArguments(VMArguments):
    direction = Choice(DIRECTIONS, default="ancestors")


def list_vms(_caller: object, arguments: Json) -> ToolResult:
    found = services.filter_vms(role=arguments["role"], status=arguments["status"])
    return _rows("vms", vms_json(found.newest_first()))


def register(caller: object, arguments: Json) -> ToolResult:
    if not VM.objects.filter(pk=arguments["id"]).exists():
        arguments = below_caller(caller, arguments, own_id=arguments["id"])
    body = RegistrationBody.parse_data({**arguments, "registeredBy": _name_of(caller)})
    facts = vms_json([services.register(to_registration(body), caller=caller)])[0]
    return ToolResult(json_text(facts), {"vm": facts})


def discover(_caller: object, arguments: Json) -> ToolResult:
    now = clock.now()
    found = VM.objects.filter(role=arguments["role"]).answering(now)
    return _rows("vms", vms_json(found.newest_first(), now))


def heartbeat(caller: object, arguments: Json) -> ToolResult:
    beat = heartbeat_bodies.parse_one(arguments["id"], b"")
    return _result(services.record_heartbeat(beat, caller=caller))


def lineage(_caller: object, arguments: Json) -> ToolResult:
    direction = arguments["direction"]
    find = {
        "ancestors": services.ancestors,
        "subtree": services.subtree,
        "children": services.children,
    }[direction]
    return _rows(direction, vms_json(find(arguments["id"])))


def _name_of(caller: object) -> str:
    """Return the name by which the caller is known: that of its node, if it has one."""
    node = permissions.node_of(caller)
    return (node.name or node.vm_id) if node else settings.AGENT_NAME or str(caller)


def _rows(name: str, rows: list[Json]) -> ToolResult:
    return _result({name: rows, "count": len(rows)})


def _result(result: Json) -> ToolResult:
    return ToolResult(json_text(result), {"result": result})


TOOLS = (
    Tool(
        "registry_list",
        "List registered VMs with their status and liveness, most recently seen first.",
        ListArguments,
        list_vms,
        read_only=True,
    ),
    Tool(
        "registry_register",
        "Register a VM, or update its registration.",
        RegisterArguments,
        register,
        action=Action.WRITE,
    ),
    Tool(
        "registry_discover",
        "List VMs of a role that are running and answer.",
        RoleArguments,
        discover,
        read_only=True,
    ),
    Tool(
        "registry_heartbeat",
        "Send a heartbeat for a VM.",
        VMArguments,
        heartbeat,
        action=Action.WRITE,
    ),
    Tool(
        "registry_lineage",
        "List the ancestors, the children or the whole subtree of a registered VM.",
        LineageArguments,
        lineage,
        read_only=True,
    ),
)
