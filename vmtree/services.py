"""Use cases of the tree. Each function checks permissions, commits rows, then publishes events.

`by` is the caller: what authentication found, or the name of a part of reef.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count, Q

from reef_site.common import clock, database_locks, events
from reef_site.common.batches import batched
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.errors import BadInput, Conflict, NotFound
from reef_site.common.eventlog import recording
from reef_site.common.eventlog.recording import NewEvent
from reef_site.common.ids import new_ulid
from reef_site.common.queries.rows import insert_rows, update_row
from reef_site.common.text import clip
from vmtree import names as vm_names
from vmtree import operator_tokens, permissions, removal, tokens
from vmtree.dna import Dna, empty
from vmtree.lineage import descendant_keys, is_within
from vmtree.models import LINKS, Node, NodeToken, Revision, Trait


@dataclass(frozen=True)
class NewNode:
    """A node to create. Without an id it gets a new one."""

    name: str
    category: str
    vm_id: str = ""
    parent_vm_id: str = ""
    dna: Dna | None = dataclasses.field(default_factory=empty)


class _Unchanged:
    """Marks a field that a change does not mention."""


UNCHANGED = _Unchanged()
MAX_SHOWN = 255


@dataclass(frozen=True)
class NodeChange:
    """Fields to change. A parent of None makes the node a root."""

    name: str | _Unchanged = UNCHANGED
    category: str | _Unchanged = UNCHANGED
    dna: Dna | _Unchanged | None = UNCHANGED
    parent_vm_id: str | _Unchanged | None = UNCHANGED


def find(vm_id: str, *, removed: bool = False, missing: str = "VM not found") -> Node:
    """Return the active node (with `removed` also a removed one). Raises NotFound."""
    nodes = Node.objects.select_related("parent").filter(vm_id=vm_id)
    node = (nodes if removed else nodes.active()).first()
    if node is None:
        raise NotFound(missing)
    return node


def find_parent(vm_id: str) -> Node:
    """Return the active node that is to become a parent. Raises BadInput."""
    parent = Node.objects.active().filter(vm_id=vm_id).first()
    if parent is None:
        raise BadInput(f"parent VM '{vm_id}' not found", "parentVmId")
    return parent


@transaction.atomic
def create(new: NewNode, *, by: object, what: Revision.What = Revision.What.CREATED) -> Node:
    """Create a node. Raises BadInput, Conflict, Forbidden.

    If the node was created by its registration and not changed since, it is updated instead.
    """
    if what == Revision.What.CREATED and _is_untouched_placement(new.vm_id):
        return _update_placed(new, by)
    if what == Revision.What.CREATED:
        # Not checked for nodes created by registration: the registry accepted the name, perhaps
        # long ago.
        vm_names.check(new.name)
    database_locks.lock(DatabaseLock.TREE_STRUCTURE, shared=True)
    parent = find_parent(new.parent_vm_id) if new.parent_vm_id else None
    permissions.check(by, "write", parent)
    vm_id = new.vm_id or new_ulid()
    if known := Node.objects.filter(vm_id=vm_id).first():
        raise _id_conflict(known)
    now = clock.now()
    node = Node(vm_id=vm_id, name=new.name, category=new.category, parent=parent)
    node.reef_config, node.created_at, node.updated_at = new.dna, now, now
    try:
        with transaction.atomic():
            node.save(force_insert=True)
    except IntegrityError:
        raise Conflict(f"VM '{vm_id}' exists already") from None
    write_new_traits([node])
    record([node], what, by, now)
    events.publish_nodes([vm_id])
    return node


@transaction.atomic
def change(vm_id: str, changes: NodeChange, *, by: object) -> Node:
    """Rename a node, change its category or DNA, or move it with its descendants.

    Raises BadInput, NotFound, Forbidden.
    """
    moves = not isinstance(changes.parent_vm_id, _Unchanged)
    if moves:
        database_locks.lock(DatabaseLock.TREE_STRUCTURE)
    node = _locked(vm_id, missing=f"VM '{clip(vm_id, MAX_SHOWN)}' not found")
    permissions.check(by, "write", node)
    if not isinstance(changes.category, _Unchanged) and changes.category != node.category:
        # The category is changed only by those who may command the VM.
        permissions.check(by, "command", node)
    write_changes([(node, changes, by)], clock.now())
    events.publish_nodes([vm_id])
    return node


@transaction.atomic
def remove(
    vm_id: str,
    *,
    by: object,
    subtree: bool = False,
    confirm: int | None = None,
    guarded: bool = False,
) -> int:
    """Mark a node as removed, with `subtree` also its descendants. Return how many were removed.

    A subtree needs `confirm`, the expected number of VMs, and is deregistered, too. With `guarded`,
    VMs that higher apps protect are not removed. Raises BadInput, Conflict (the number differs, or
    a VM is protected), NotFound, Forbidden.
    """
    database_locks.lock(DatabaseLock.TREE_STRUCTURE)
    node = _locked(vm_id)
    permissions.check(by, "command", node)
    keys = descendant_keys(LINKS, node.pk)
    if not subtree and len(keys) > 1:
        count = Node.objects.active().filter(parent=node).count()
        raise BadInput(f"VM '{vm_id}' has {count} children. Remove or reassign them first.")
    if subtree:
        _check_confirmed(confirm, len(keys))
    now = clock.now()
    if guarded:
        for some in batched(keys):
            found = Node.objects.filter(pk__in=some).values_list("vm_id", flat=True)
            removal.check(list(found))
    tokens.revoke_all(keys)
    operator_tokens.revoke_all(keys, by=by)
    for some in batched(keys):
        rows = Node.objects.select_related("parent").filter(pk__in=some).order_by("pk")
        # Locked, so that nothing changes between recording and removing them.
        nodes = list(rows.select_for_update(of=("self",), no_key=True))
        record(nodes, Revision.What.REMOVED, by, now)
        Node.objects.filter(pk__in=some).update(removed_at=now, updated_at=now)
        ids = [each.vm_id for each in nodes]
        if subtree:
            removal.follow(ids)
        events.publish_nodes(ids)
    return len(keys)


def issue_token(vm_id: str, *, by: object) -> tuple[Node, str]:
    """Issue a token for a node and revoke its older ones. Return the node and the token."""
    with transaction.atomic():
        node = _locked(vm_id)
        permissions.check(by, permissions.Action.ISSUE_TOKENS, node)
        recording.record("tree.token-issued", vm_id, actor=by)
        return node, tokens.issue(node, made_by=str(by))


def revoke_tokens(vm_id: str, *, by: object) -> int:
    """Revoke the tokens of a node and its descendants. Return how many there were."""
    node = find(vm_id)
    permissions.check(by, "command", node)
    return tokens.revoke(node, by=by)


def tokens_of(vm_id: str, *, by: object) -> list[NodeToken]:
    """Return the tokens of this node, newest first."""
    node = find(vm_id, removed=True)
    permissions.check(by, "write", node)
    return list(node.tokens.all())


@transaction.atomic
def mark_destroyed(vm_id: str) -> None:
    """Mark the VM of a node as destroyed. The node stays for its descendants."""
    now = clock.now()
    node = Node.objects.active().filter(vm_id=vm_id, destroyed_at__isnull=True)
    if node.update(destroyed_at=now, updated_at=now):
        # Whoever destroyed it is in the event of its lieutenant or provider.
        recording.record("tree.destroyed", vm_id, actor="reef")
        events.publish_nodes([vm_id])


def stats() -> dict[str, Any]:
    """Count active nodes: in all, by category, roots."""
    living = Node.objects.active()
    found = living.count_by_category()
    counted = living.aggregate(
        roots=Count("pk", filter=Q(parent__isnull=True)),
        # Destroyed nodes stay in the tree while they have children.
        destroyed=Count("pk", filter=Q(destroyed_at__isnull=False)),
    )
    known = {"total": sum(found.values()), "byCategory": found, "roots": counted["roots"]}
    return {**known, "destroyed": counted["destroyed"]} if counted["destroyed"] else known


# -- helpers -------------------------------------------------------------------------------------


def _is_untouched_placement(vm_id: str) -> bool:
    """Return whether this VM was created by its registration and never changed since."""
    found = Revision.objects.filter(node__vm_id=vm_id).values_list("what", flat=True)
    return bool(vm_id) and set(found[:2]) == {Revision.What.PLACED}


def _update_placed(new: NewNode, by: object) -> Node:
    """Update a node that was created by its registration; absent fields stay unchanged."""
    changes = NodeChange(
        name=new.name,
        category=new.category,
        dna=UNCHANGED if new.dna == empty() else new.dna,
        parent_vm_id=new.parent_vm_id or UNCHANGED,
    )
    node = change(new.vm_id, changes, by=by)
    if _is_untouched_placement(new.vm_id):
        # Nothing changed, but from now on the node counts as created explicitly.
        record([node], Revision.What.CHANGED, by, node.updated_at)
    return node


def _locked(vm_id: str, *, missing: str = "VM not found") -> Node:
    node = Node.objects.select_for_update(no_key=True).active().filter(vm_id=vm_id).first()
    if node is None:
        raise NotFound(missing)
    return node


def _id_conflict(known: Node) -> Conflict:
    if known.removed_at:
        return Conflict(f"VM '{known.vm_id}' was removed; its id is never given again")
    return Conflict(f"VM '{known.vm_id}' exists already")


def _move(node: Node, parent_vm_id: str | None, by: object) -> None:
    """Assign a new parent. The structure is locked, so the new parent cannot move meanwhile."""
    parent = find_parent(parent_vm_id) if parent_vm_id else None
    permissions.check(by, "command", node)
    permissions.check(by, "write", parent)
    if parent and is_within(LINKS, parent.pk, node.pk):
        raise BadInput(
            f"parentVmId: '{parent.vm_id}' is '{node.vm_id}' itself or below it", "parentVmId"
        )
    node.parent = parent


def _check_confirmed(confirm: int | None, count: int) -> None:
    if confirm is None:
        raise BadInput(f"confirm: must be {count}, the number of VMs that would be removed")
    if confirm != count:
        raise Conflict(f"confirm: {count} VMs would be removed, not {confirm}")


def write_changes(changes: Iterable[tuple[Node, NodeChange, object]], at: datetime) -> None:
    """Change nodes that are locked: what may be changed, by an actor who may do it.

    A new parent is checked here. Raises BadInput, Forbidden.
    """
    changed = []
    for node, fields, by in changes:
        before = _state(node)
        _assign(node, fields, by)
        node.updated_at = at
        update_row(node, ["name", "category", "reef_config", "parent", "updated_at"])
        if _state(node) != before:
            changed.append((node, by, Revision.What.CHANGED))
    if changed:
        nodes = [node for node, *_ in changed]
        Trait.objects.filter(node__in=nodes).delete()
        write_new_traits(nodes)
        recording.record_by((by, changed_event(node, what)) for node, by, what in changed)
        add_revisions(changed, at)


def _assign(node: Node, changes: NodeChange, by: object) -> None:
    if not isinstance(changes.name, _Unchanged):
        if changes.name != node.name:
            vm_names.check(changes.name)
        node.name = changes.name
    if not isinstance(changes.category, _Unchanged):
        node.category = changes.category
    if not isinstance(changes.dna, _Unchanged):
        node.reef_config = changes.dna
    if (
        not isinstance(changes.parent_vm_id, _Unchanged)
        and changes.parent_vm_id != node.parent_vm_id
    ):
        _move(node, changes.parent_vm_id, by)


def _state(node: Node) -> tuple[Any, ...]:
    return node.name, node.category, node.parent_id, node.reef_config


def write_new_traits(nodes: Iterable[Node]) -> None:
    """Write the organs and capabilities of nodes that have none in the table."""
    insert_rows(
        Trait(node=node, kind=kind, name=name, position=position)
        for node in nodes
        for kind, names in (
            (Trait.Kind.ORGAN, node.organs),
            (Trait.Kind.CAPABILITY, node.capabilities),
        )
        for position, name in enumerate(names)
    )


def record(nodes: list[Node], what: Revision.What, by: object, at: datetime) -> None:
    """Add a revision with the current state of each node, and an event."""
    recording.record_many([changed_event(node, what) for node in nodes], actor=by)
    add_revisions([(node, by, what) for node in nodes], at)


def changed_event(node: Node, what: Revision.What) -> NewEvent:
    """Return the event of a revision."""
    facts = {"name": node.name, "category": node.category, "parentVmId": node.parent_vm_id}
    return NewEvent(f"tree.{what.value}", node.vm_id, facts)


def add_revisions(changes: Iterable[tuple[Node, object, Revision.What]], at: datetime) -> None:
    """Add a revision with the current state of each node, by this actor, without an event."""
    insert_rows(
        Revision(
            node=node,
            at=at,
            actor=str(by)[:200],
            what=what,
            name=node.name,
            category=node.category,
            parent_vm_id=node.parent_vm_id,
            reef_config=node.reef_config,
        )
        for node, by, what in changes
    )
