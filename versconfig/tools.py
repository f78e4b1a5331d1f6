"""Tools for agents: show and set configuration."""

from __future__ import annotations

from typing import Any

from reef_site.common.api.fields import Text
from reef_site.common.api.serializers import Body
from reef_site.common.tools import NoArguments, Tool, ToolResult
from versconfig import config, impact, keys, scopes, services
from versconfig.models import Scope, Setting
from versconfig.serializers import (
    ValueBody,
    find_key,
    mask_for,
    overview_json,
    put_json,
)
from vmtree import permissions
from vmtree.permissions import Action

Json = dict[str, Any]
LABEL_WIDTH = 12
# Labels in their order, and whether the source of the value is shown.
LABELS = {
    "apiKey": ("API Key", True),
    "infraUrl": ("Infra URL", True),
    "authToken": ("Auth Token", True),
    "baseUrl": ("Base URL", False),
    "agentName": ("Agent Name", False),
    "vmId": ("VM ID", False),
    "agentRole": ("Agent Role", False),
}


class SetArguments(Body):
    key = Text(blank=False, help_text="Name of the key, such as REEF_AGENT_MODEL.")
    value = Text(strip=False, help_text="The value; an empty one removes what is stored.")


def get(caller: object, _arguments: Json) -> ToolResult:
    node = permissions.home_of(caller)
    permissions.check(caller, Action.READ_CONFIG, node)
    found = config.resolve_all([key.name for key in keys.WIRE], node)
    facts = overview_json(found, mask_for(caller))
    lines = []
    for name, (label, has_source) in LABELS.items():
        source = f" [{facts['sources'][name]}]" if has_source else ""
        lines.append(f"{f'{label}:':<{LABEL_WIDTH}}{facts[name] or '(not set)'}{source}")
    return ToolResult("\n".join(lines), {"config": facts})


def put(caller: object, arguments: Json) -> ToolResult:
    key, node = find_key(arguments["key"]), permissions.home_of(caller)
    target = scopes.target_of(Scope.SUBTREE, node.vm_id) if node else services.FLEET
    services.check_may_change(caller, key, target)
    value = ValueBody.parse_data(arguments)["value"]
    change = services.build_change(key.name, value, target)
    preview = impact.preview(change, mask_for(caller))
    was_stored = Setting.objects.for_scope(key.name, target.scope, target.node).exists()
    version = services.put(change, by=caller)
    facts = put_json(change, preview, version, had=was_stored)
    note = f" Note: {facts['note']}." if "note" in facts else ""
    return ToolResult(f"Set {arguments['key']} (source: store).{note}", facts)


TOOLS = (
    Tool(
        "vers_config_get",
        "Show the configuration of the fleet as it applies to you; secrets are masked.",
        NoArguments,
        get,
        read_only=True,
    ),
    Tool(
        "vers_config_set",
        "Store a value of the configuration: an agent for itself and everything below it, the "
        "operator for the whole fleet. Some keys are for operators only.",
        SetArguments,
        put,
        action=Action.WRITE,
    ),
)
