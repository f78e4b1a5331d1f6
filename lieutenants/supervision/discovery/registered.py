"""Discovery of lieutenants among the registered VMs."""

from __future__ import annotations

from typing import Any

from registry.models import VM


def facts_of(vm: VM | None) -> dict[str, Any]:
    """Return the metadata of a VM; empty if they are of another form."""
    return vm.metadata if vm is not None and isinstance(vm.metadata, dict) else {}


def name_of(vm: VM) -> str:
    """Return the lieutenant's name: the one that its server has noted, else that of the VM."""
    agent_id = facts_of(vm).get("agentId")
    return agent_id if isinstance(agent_id, str) and agent_id else vm.name
