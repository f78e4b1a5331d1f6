"""An independent copy of the permissions, and random trees to compare it with the real ones."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from django.conf import settings

from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.api.authentication import Caller
from vmtree import services
from vmtree.models import Node
from vmtree.services import NewNode

READS = {"READ", "READ_TRANSCRIPT", "READ_CONFIG", "READ_MACHINES", "READ_SNAPSHOTS"}
KINDS = ("vm", "here", "elsewhere", "remote", "destroyed")


@dataclass
class Tree:
    """A tree with the data that the model of the rules needs, independent of the database."""

    parents: dict[str, str] = field(default_factory=dict)
    # Host of the process of each local lieutenant; the other nodes are VMs.
    hosts: dict[str, str] = field(default_factory=dict)

    def with_ancestors(self, vm_id: str) -> list[str]:
        """Return the node and its ancestors."""
        return [vm_id, *self.with_ancestors(self.parents[vm_id])] if vm_id else []

    def allows(self, caller: str, action: str, target: str) -> bool:
        """Evaluate an independent copy of the rules. An empty target means the whole fleet."""
        known = target in self.parents
        own = known and caller in self.with_ancestors(target)
        below = own and caller != target
        if action == "READ":
            return True
        if action in ("READ_TRANSCRIPT", "READ_CONFIG", "READ_MACHINES", "WRITE", "PROVISION"):
            return own
        if action in ("COMMAND", "DESTROY", "GRANT"):
            return below
        if action == "SIGNAL":
            above = known and target in self.with_ancestors(caller)
            reaches = target not in self.hosts or self.hosts.get(caller) == self.hosts[target]
            return known and caller != target and (above or reaches)
        if action in ("SEND", "ANSWER", "START", "ISSUE_TOKENS"):
            is_vm = target not in self.hosts
            return below and (is_vm or self.hosts.get(caller) == self.hosts[target])
        if action == "START_BELOW":
            return own and self.hosts.get(caller) == settings.DATA_FOLDER_ID
        return False

    def token_allows(self, scope: str, subtree: str, action: str, target: str) -> bool:
        """The same for an operator token; an empty subtree means none."""
        in_reach = not subtree or (
            target in self.parents and subtree in self.with_ancestors(target)
        )
        if action == "READ":
            return True
        if action in READS:
            return in_reach
        if action in ("SEND", "ANSWER"):
            return in_reach and scope in ("messages", "everything")
        if action == "GRANT" and subtree == target != "":
            return False
        return in_reach and scope == "everything" and action != "MAKE_TOKENS"


def plant(seed: int, count: int) -> Tree:
    """Create a random tree: VMs, local lieutenants on two hosts, remote and destroyed ones."""
    dice, tree = random.Random(seed), Tree()
    for _ in range(count):
        parent = dice.choice(["", *tree.parents, *tree.parents])
        add(tree, parent, dice.choice(["vm", "here", *KINDS]))
    return tree


def add(tree: Tree, parent: str, kind: str) -> str:
    """Create a node of one of KINDS in the database and in the model; return its id."""
    vm_id = f"n{len(tree.parents)}"
    category = "agent_vm" if kind == "vm" else "lieutenant"
    services.create(NewNode(vm_id, category, vm_id, parent), by="tests")
    tree.parents[vm_id] = parent
    if kind != "vm":
        host = "elsewhere" if kind == "elsewhere" else settings.DATA_FOLDER_ID
        Lieutenant.objects.create(
            id=vm_id,
            name=vm_id,
            role="tests",
            folder="/",
            host=settings.HOST,
            data_folder=host,
            transport="ssh" if kind == "remote" else "local",
            status=Status.DESTROYED if kind == "destroyed" else Status.IDLE,
        )
        if kind in ("here", "elsewhere"):
            tree.hosts[vm_id] = host
    return vm_id


def caller_of(vm_id: str) -> Caller:
    return Caller(f"node {vm_id}", Node.objects.get(vm_id=vm_id))
