"""Tools for VMs that reef provisions."""

from __future__ import annotations

from typing import Any

from bootloader.provisioning import services
from bootloader.provisioning.api import visible_json
from bootloader.provisioning.serializers.provision_requests import ProvisionBody, to_request
from bootloader.provisioning.serializers.provisionings import provisionings_json
from bootloader.states import CleanupPolicy
from reef_site.common.api.fields import Choice, Text, WholeNumber
from reef_site.common.api.serializers import Body
from reef_site.common.tools import Tool, ToolResult
from vmtree.permissions import Action

Json = dict[str, Any]


class ProvisionArguments(Body):
    name = Text(blank=False, help_text="Name of the VM.")
    type = Text(
        blank=False, help_text="Profile: full, swarm, lightweight, infra, or one of your own."
    )
    parentVmId = Text(required=False, help_text="Its parent; absent for yourself.")
    count = WholeNumber(least=1, most=1000, required=False, help_text="Make this many VMs.")
    vcpus = WholeNumber(least=1, most=256, required=False)
    memoryMib = WholeNumber(least=1, most=4 << 20, required=False)
    diskMib = WholeNumber(least=1, most=64 << 20, required=False)
    commitId = Text(required=False, help_text="Saved machine to restore.")
    onFailure = Choice(
        CleanupPolicy.values, required=False, help_text="What becomes of a VM that does not start."
    )


class ProvisioningArguments(Body):
    id = Text(blank=False, help_text="Id of the provisioning.")


def provision(caller: object, arguments: Json) -> ToolResult:
    started = services.start(to_request(ProvisionBody.parse_data(arguments)), by=caller)
    rows = provisionings_json(started.rows)
    verb = "exists already as" if started.existing else "is being made by"
    lines = [f'VM "{each["name"]}" {verb} provisioning {each["id"]}.' for each in rows]
    lines.append("reef_wait (provisionings) tells when it is done.")
    return ToolResult("\n".join(lines), {"provisionings": rows, "continued": started.existing})


def show_provisioning(caller: object, arguments: Json) -> ToolResult:
    facts = visible_json(caller, [services.find(arguments["id"])])[0]
    reason = f": {facts['reason']}" if facts.get("reason") else ""
    lines = [f'Provisioning {facts["id"]} of "{facts["name"]}" is {facts["state"]}{reason}']
    lines += [f"  {each['name']}: {each['state']}" for each in facts["steps"]]
    if facts["vmId"]:
        lines.append(f"VM: {facts['vmId']}")
    return ToolResult("\n".join(lines), {"provisioning": facts})


TOOLS = (
    Tool(
        "reef_provision",
        "Have a VM made and brought into the fleet, below you. Needs a grant.",
        ProvisionArguments,
        provision,
        action=Action.PROVISION,
    ),
    Tool(
        "reef_provisioning",
        "Show how far a provisioning is, step by step.",
        ProvisioningArguments,
        show_provisioning,
        read_only=True,
    ),
)
