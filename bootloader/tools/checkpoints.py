"""Tools that save VMs and make others like them, and that show what came of it."""

from __future__ import annotations

from typing import Any

from bootloader import checkpoints
from bootloader.provisioning.serializers.provision_requests import ProvisionBody, to_request
from reef_site.common import outside
from reef_site.common.api.fields import Text
from reef_site.common.api.serializers import Body
from reef_site.common.models import CallState, OutsideCall
from reef_site.common.tools import Tool, ToolResult
from vmtree.fields import VMAlias
from vmtree.permissions import Action

Json = dict[str, Any]


class CheckpointArguments(Body):
    vmId = VMAlias(blank=False, help_text="VM to save.")
    name = Text(default="", length=checkpoints.MAX_NAME, help_text="Name of the checkpoint.")


class BranchArguments(Body):
    vmId = VMAlias(blank=False, help_text="VM to copy.")
    name = Text(blank=False, help_text="Name of the new VM.")
    type = Text(blank=False, help_text="A profile, such as full, swarm, lightweight or infra.")
    parentVmId = Text(required=False, help_text="Its parent; absent for the copied VM's.")


class CallArguments(Body):
    id = Text(blank=False, help_text="Id of the call.")


def checkpoint(caller: object, arguments: Json) -> ToolResult:
    return _result(checkpoints.save(arguments["vmId"], arguments["name"], by=caller))


def branch(caller: object, arguments: Json) -> ToolResult:
    vm_id, given = arguments["vmId"], {**arguments}
    del given["vmId"]
    vm_request = to_request(ProvisionBody.parse_data(given))
    return _result(checkpoints.branch(vm_id, vm_request, by=caller))


def show_call(caller: object, arguments: Json) -> ToolResult:
    return _result(checkpoints.find_call(arguments["id"], by=caller))


def _result(row: OutsideCall) -> ToolResult:
    """Return what came of a call. Raises CallFailed."""
    facts: Json = {"id": row.pk, "state": "running"}
    if not row.is_over:
        text = f"Call {row.pk} is at work; reef_wait (calls) or reef_call tell what came of it."
        return ToolResult(text, {"call": facts})
    if row.state == CallState.FAILED:
        raise checkpoints.CallFailed(row.error)
    text = "\n".join(line for _, line in outside.lines(row))
    return ToolResult(text, {"call": {**facts, "state": "done", "result": row.result}})


TOOLS = (
    Tool(
        "reef_checkpoint",
        "Save a VM with its disk and memory as it is now. The result is the id of a commit, from "
        "which VMs can be made.",
        CheckpointArguments,
        checkpoint,
        action=Action.COMMAND,
    ),
    Tool(
        "reef_branch",
        "Make a VM that begins as a copy of another one is now. For the operator: a copy has the "
        "data of the other VM.",
        BranchArguments,
        branch,
        action=Action.PROVISION,
        on_fleet=True,
    ),
    Tool(
        "reef_call",
        "Show what came of a call to a provider that takes some time.",
        CallArguments,
        show_call,
        read_only=True,
    ),
)
