"""Scopes: those that reach a node, nearest first, and the nodes that a scope reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db.models import Q

from reef_site.common.errors import BadInput, Conflict, NotFound
from reef_site.common.text import is_storable
from versconfig.keys import Key
from versconfig.models import Scope, Setting
from vmtree import aliases, ids
from vmtree import services as tree
from vmtree.lineage import ancestor_keys, descendant_keys
from vmtree.models import LINKS, Category, Node


@dataclass(frozen=True)
class Target:
    """A scope: the fleet, or a kind of scope at a node."""

    scope: Scope = Scope.FLEET
    node: Node | None = None

    def __str__(self) -> str:
        return Setting(scope=self.scope, node=self.node).target


FLEET = Target()


# Prefix of the `vmId` that the lieutenants' API shows.
_LOCAL = ids.LOCAL


def find(query: str, *, removed: bool = False) -> Node:
    """Return the node with this id, else the active one with this name, lieutenants first.

    Raises NotFound, or BadInput if several have the name. Removed nodes are found by id only.
    """
    if not is_storable(query):
        raise NotFound("VM not found")
    try:
        return tree.find(aliases.resolve(query), removed=removed)
    except NotFound:
        found = _find_by_name(query)
    if not found:
        raise NotFound("VM not found")
    if len(found) > 1:
        raise BadInput(f"vm: {len(found)} VMs are called {query}; give the id of one", "vm")
    return found[0]


def _find_by_name(name: str) -> list[Node]:
    """Return active nodes with this name: the lieutenant, or all."""
    living = Node.objects.active()
    lieutenants = living.filter(category=Category.LIEUTENANT)
    found = list(lieutenants.filter(name=name)) or list(living.filter(name=name)[:100])
    if not found and name.startswith(_LOCAL):
        found = list(lieutenants.filter(name=name.removeprefix(_LOCAL)))
    return found


def target_of(scope: str, vm_id: str) -> Target:
    """Parse scope and VM of a request; an id without a scope means that VM.

    Raises BadInput, NotFound.
    """
    if not scope and not vm_id:
        return FLEET
    node = find(vm_id, removed=True) if vm_id else None
    if not scope:
        lieutenant = node is not None and node.category == Category.LIEUTENANT
        scope = Scope.LIEUTENANT if lieutenant else Scope.VM
    if scope not in Scope.values:
        raise BadInput(f"scope: must be one of {', '.join(Scope.values)}", "scope")
    if scope == Scope.FLEET:
        if node:
            raise BadInput("vm: the fleet's scope has none", "vm")
        return FLEET
    if node is None:
        raise BadInput(f"vm: the scope {scope} needs the id of a VM", "vm")
    if scope == Scope.LIEUTENANT and node.category != Category.LIEUTENANT:
        raise BadInput(f"vm: {node.vm_id} is no lieutenant; its scope is vm", "vm")
    return Target(Scope(scope), node)


def check_fits(key: Key, target: Target) -> None:
    """Raise BadInput or Conflict if this key cannot be set for this scope."""
    if target.node and not key.scoped:
        raise BadInput(f"scope: {key.name} holds for the whole fleet or not at all", "scope")
    if target.node and target.node.removed_at:
        raise Conflict(f"{target.node.vm_id} was removed; nothing can be set for it any more")


def path_to(node: Node | None) -> list[int]:
    """Return the keys from the root down to this node; empty for the fleet."""
    return ancestor_keys(LINKS, node.pk) if node else []


def stored_above(names: Sequence[str], node: Node | None, path: list[int]) -> list[Setting]:
    """Return the settings of these keys that reach the node (or the fleet), nearest first."""
    reach = Q(scope=Scope.FLEET)
    if node:
        reach |= Q(scope=Scope.SUBTREE, node__in=path)
        reach |= Q(scope__in=[Scope.VM, Scope.LIEUTENANT], node=node)
    found = Setting.objects.filter(reach, key__in=names).select_related("node", "stored_by")
    return sorted(found, key=lambda each: _distance(each, path))


def chain(node: Node | None, path: list[int]) -> list[Target]:
    """Return every scope that reaches the node, nearest first."""
    if node is None:
        return [FLEET]
    nodes = Node.objects.in_bulk(path)
    near = [Target(Scope.LIEUTENANT, node)] if node.category == Category.LIEUTENANT else []
    near.append(Target(Scope.VM, node))
    return [*near, *(Target(Scope.SUBTREE, nodes[pk]) for pk in reversed(path)), FLEET]


def affected_nodes(key: Key, target: Target) -> set[int]:
    """Return the keys of active nodes for which this scope is the nearest with a value."""
    if target.scope in (Scope.VM, Scope.LIEUTENANT):
        return _affected_node(key, target)
    overrides = Setting.objects.filter(key=key.name, node__isnull=False)
    if target.node is None:
        affected = set(Node.objects.active().values_list("pk", flat=True))
    else:
        affected = set(descendant_keys(LINKS, target.node.pk))
        overrides = overrides.exclude(scope=Scope.SUBTREE, node=target.node)
    for scope, pk in overrides.values_list("scope", "node"):
        if pk in affected:
            affected -= set(descendant_keys(LINKS, pk)) if scope == Scope.SUBTREE else {pk}
    return affected


def count_below(target: Target) -> int:
    """Return how many active nodes a scope covers, with or without nearer values."""
    if target.node is None:
        return Node.objects.active().count()
    if target.scope == Scope.SUBTREE:
        return len(descendant_keys(LINKS, target.node.pk))
    return 0 if target.node.removed_at else 1


def _affected_node(key: Key, target: Target) -> set[int]:
    if target.node is None or target.node.removed_at:
        return set()
    override = Setting.objects.for_scope(key.name, Scope.LIEUTENANT, target.node)
    hidden = target.scope == Scope.VM and override.exists()
    return set() if hidden else {target.node.pk}


def _distance(setting: Setting, path: list[int]) -> tuple[int, int]:
    order = {Scope.LIEUTENANT: 0, Scope.VM: 1, Scope.SUBTREE: 2, Scope.FLEET: 3}
    depth = path.index(setting.node_id) if setting.node_id in path else 0
    return order[Scope(setting.scope)], -depth
