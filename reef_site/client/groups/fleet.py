"""`reef vms` and `reef tree`"""

from __future__ import annotations

import argparse
from typing import Any

from reef_site.client import output
from reef_site.client.commands import (
    Group,
    Options,
    add_composition,
    composition,
    show,
    whole_number,
)
from reef_site.client.completion import complete_vms
from reef_site.client.groups import machine_commands
from reef_site.client.http import Api

Json = dict[str, Any]
ROLES = ("infra", "lieutenant", "worker", "golden", "custom")
STATUSES = ("running", "paused", "stopped")
CATEGORIES = ("lieutenant", "swarm_vm", "agent_vm", "infra_vm")


def add_vms(group: Group) -> None:
    """Add the commands about the registry."""
    parser = group.add("list", "list registered VMs", list_vms)
    parser.add_argument("--role", choices=ROLES)
    parser.add_argument("--status", choices=STATUSES)
    parser = group.add("register", "register a VM, or update its registration", register_vm)
    parser.add_argument("id")
    for name in ("name", "address"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--role", choices=ROLES, required=True)
    parser.add_argument("--parent", dest="parentVmId", help="id of its parent")
    add_composition(parser)
    parser = group.add("discover", "list VMs of a role that are running and answer", discover)
    parser.add_argument("role", choices=ROLES)
    parser = group.add_tool("heartbeat", "send a heartbeat for a VM", "registry_heartbeat", ["id"])
    _add_vm(parser, "id")
    parser = group.add("lineage", "list the VMs above or below a VM", lineage)
    _add_vm(parser, "id")
    parser.add_argument(
        "--direction", choices=("ancestors", "children", "subtree"), default="ancestors"
    )
    machine_commands.add(group)


def add_tree(group: Group) -> None:
    """Add the commands about the tree."""
    parser = group.add("view", "show the tree, or the part below a VM", view)
    _add_vm(parser, "vmId", nargs="?")
    parser.add_argument("--depth", type=whole_number, help="only so many levels")
    parser = group.add("register", "add a VM to the tree", register_node)
    parser.add_argument("name")
    parser.add_argument("category", choices=CATEGORIES)
    parser.add_argument("--id", dest="vmId", help="its id; a new one if absent")
    parser.add_argument("--parent", dest="parentVmId", help="id of its parent")
    add_composition(parser)
    parser = group.add("find", "find VMs by an organ or a capability", find)
    parser.add_argument("type", choices=("organ", "capability"))
    parser.add_argument("name")


def _add_vm(parser: argparse.ArgumentParser, dest: str, nargs: str | None = None) -> None:
    action = parser.add_argument(dest, metavar="VM", nargs=nargs, help="id of a VM")
    action.completer = complete_vms  # type: ignore[attr-defined]


def list_vms(api: Api, options: Options) -> None:
    _show_vms(api.call("registry_list", {"role": options.role, "status": options.status}), options)


def register_vm(api: Api, options: Options) -> None:
    names = ("id", "name", "role", "address", "parentVmId")
    given = {each: getattr(options, each) for each in names}
    dna = composition(options.organs, options.capabilities)
    result = api.call("registry_register", {**given, "reefConfig": dna})
    show(result, options, f"Registered {result['details']['vm']['id']}.")


def discover(api: Api, options: Options) -> None:
    _show_vms(api.call("registry_discover", {"role": options.role}), options)


def lineage(api: Api, options: Options) -> None:
    given = {"id": options.id, "direction": options.direction}
    _show_vms(api.call("registry_lineage", given), options, options.direction)


def _show_vms(result: Json, options: Options, key: str = "vms") -> None:
    found = result["details"]["result"]
    head = ("ID", "NAME", "ROLE", "STATUS", "LIVENESS", "ADDRESS")
    keys = ("id", "name", "role", "status", "liveness", "address")
    rows = [[each.get(name, "") for name in keys] for each in found[key]]
    show({"details": found}, options, output.table(head, rows) if rows else "No VMs.")


def view(api: Api, options: Options) -> None:
    result = api.call("vm_tree_view", {"vmId": options.vmId, "depth": options.depth})
    found = result["details"]["tree"]
    lines = output.tree(found["tree"])
    show({"details": found}, options, "\n".join(lines) or "No VMs.")


def register_node(api: Api, options: Options) -> None:
    names = ("name", "category", "vmId", "parentVmId")
    given = {each: getattr(options, each) for each in names}
    dna = composition(options.organs, options.capabilities)
    show(api.call("vm_tree_register", {**given, "reefConfig": dna}), options)


def find(api: Api, options: Options) -> None:
    result = api.call("vm_tree_find", {"type": options.type, "name": options.name})
    found = result["details"]["result"]
    head, keys = ("ID", "NAME", "CATEGORY"), ("vmId", "name", "category")
    rows = [[each[name] for name in keys] for each in found["vms"]]
    show({**result, "details": found}, options, output.table(head, rows) if rows else None)
