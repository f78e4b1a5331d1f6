"""Make a boot script with a join token for a VM that a caller may add."""

from __future__ import annotations

from typing import Any

from bootloader.boot import plan_builder, render
from bootloader.boot.plan import BootPlan
from bootloader.boot.serializers import profile_json
from vmtree import permissions
from vmtree.models import Node

Json = dict[str, Any]


def generate(script: Json, *, by: object) -> Json:
    """Return the response with the boot script of a valid `ScriptBody`.

    Raise Forbidden, BadInput, Conflict and PackagingFailed.
    """
    plan = plan_with_token(script, by=by)
    return {
        "vmId": plan.vm_id,
        "name": plan.name,
        "type": plan.profile.type,
        "profile": profile_json(plan.profile),
        "script": render.boot_script(plan),
        "joinToken": plan.join_token,
    }


def plan_with_token(script: Json, *, by: object) -> BootPlan:
    """Return the plan for a VM, with a fresh join token. Raise Forbidden."""
    check_permission(by, script)
    # Config contains keys of model providers, which a node could not read otherwise.
    secrets = permissions.may(by, permissions.Action.READ_SECRETS, None)
    plan = plan_builder.make_plan(**script, secrets=secrets)
    return plan_builder.with_token(plan, by=by)


def check_permission(caller: object, script: Json) -> None:
    """Raise Forbidden unless the caller may add this VM there.

    A script lets its holder become that VM: replacing a known VM needs command of it, a new VM
    needs a place at or below the caller's own.
    """
    known = Node.objects.filter(vm_id=script["vm_id"]).first()
    if known is not None:
        # Whoever holds the script can become that node.
        permissions.check(caller, permissions.Action.ISSUE_TOKENS, known)
    permissions.check(caller, "write", script["parent_vm_id"] if known is None else known)
