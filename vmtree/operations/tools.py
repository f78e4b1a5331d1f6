"""Tools for agents: pause, resume and destroy subtrees."""

from __future__ import annotations

from typing import Any

from reef_site.common.api.fields import Choice, Flag, Text, WholeNumber
from reef_site.common.api.serializers import Body
from reef_site.common.tools import Tool, ToolResult
from vmtree.fields import VMAlias
from vmtree.operations import services
from vmtree.operations.models import Operation
from vmtree.operations.serializers import job_json, plan_json
from vmtree.permissions import Action

Json = dict[str, Any]


class OperateArguments(Body):
    vmId = VMAlias(blank=False, help_text="VM at the top; everything below it is included.")
    operation = Choice(Operation.values)
    dryRun = Flag(default=False, help_text="Only show what would be done.")
    confirm = WholeNumber(
        required=False, help_text="Refuse if it would touch another number of VMs than this."
    )


class JobArguments(Body):
    id = Text(blank=False, help_text="Id of the job.")


def operate(caller: object, arguments: Json) -> ToolResult:
    operation, vm_id = Operation(arguments["operation"]), arguments["vmId"]
    if arguments["dryRun"]:
        plan = plan_json(services.plan(operation, vm_id, by=caller))
        lines = [f"  {each['name']} ({each['vmId']}): {_step(each)}" for each in plan["steps"]]
        head = f"{operation} {plan['name']}: {plan['count']} VM(s) would be touched."
        return ToolResult("\n".join([head, *lines]), {"dryRun": True, "plan": plan})
    confirm = arguments.get("confirm")
    job, continued = services.start(operation, vm_id, by=caller, confirm=confirm)
    facts = job_json(job)
    text = f"{_summary(facts)}\nvm_tree_job shows how far it is."
    return ToolResult(text, {"job": facts, "continued": continued})


def show_job(_caller: object, arguments: Json) -> ToolResult:
    facts = job_json(services.find(arguments["id"]))
    return ToolResult(_summary(facts), {"job": facts})


def _step(step: Json) -> str:
    return f"left out, {step['leftOut']}" if "leftOut" in step else str(step["does"])


def _summary(job: Json) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in job["steps"].items() if count)
    reason = f" ({job['reason']})" if job["reason"] else ""
    return f"Job {job['id']}: {job['verb']} {job['name']} is {job['state']}{reason}; {counts}."


TOOLS = (
    Tool(
        "vm_tree_operate",
        "Pause, resume or destroy a VM together with everything below it, as a job that goes on "
        "by itself. Use dryRun first.",
        OperateArguments,
        operate,
        destructive=True,
        action=Action.COMMAND,
    ),
    Tool(
        "vm_tree_job",
        "Show how far a job on a subtree is.",
        JobArguments,
        show_job,
        read_only=True,
    ),
)
