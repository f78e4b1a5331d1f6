"""What may be asked of the tree. Each function asks the rule, commits rows, then tells of them.

`by` is whoever asks: a caller as authentication found it, or the name of a part of reef.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count, Q
from ulid import ULID

from reef_site.common import clock, database_locks, events
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.errors import BadInput, Conflict, NotFound
from vmtree import authority, permissions, removal, tokens
from vmtree import names as vm_names
from vmtree.dna import Dna, empty
from vmtree.lineage import is_within, keys_below
from vmtree.models import LINKS, Node, NodeToken, Revision, Trait

_AT_ONCE = 500


@dataclass(frozen=True)
class NewNode:
    """A VM to be put into the tree. Without an id it gets one."""

    name: str
    category: str
    vm_id: str = ""
    parent_vm_id: str = ""
    dna: Dna | None = dataclasses.field(default_factory=empty)


class _Unsaid:
    """Stands for what a change does not mention."""


UNSAID = _Unsaid()


@dataclass(frozen=True)
class Change:
    """What is to be another; a parent of None makes it a root."""

    name: str | _Unsaid = UNSAID
    category: str | _Unsaid = UNSAID
    dna: Dna | _Unsaid | None = UNSAID
    parent_vm_id: str | _Unsaid | None = UNSAID


def find(vm_id: str, *, removed: bool = False, missing: str = "VM not found") -> Node:
    """The living node (or, if asked for, also a removed one), or NotFound."""
    nodes = Node.objects.select_related("parent").filter(vm_id=vm_id)
    node = (nodes if removed else nodes.living()).first()
    if node is None:
        raise NotFound(missing)
    return node


def parent_of(vm_id: str) -> Node:
    """The living node that something is to stand below, or BadInput."""
    parent = Node.objects.living().filter(vm_id=vm_id).first()
    if parent is None:
        raise BadInput(f"parent VM '{vm_id}' not found", "parentVmId")
    return parent


@transaction.atomic
def create(new: NewNode, *, by: object, what: Revision.What = Revision.What.CREATED) -> Node:
    """Put a VM into the tree. Raises BadInput, Conflict, Forbidden.

    One that came in by itself, and that nobody has changed since, becomes what is said now.
    """
    if what == Revision.What.CREATED and _came_by_itself(new.vm_id):
        return _put_by_hand(new, by)
    if what == Revision.What.CREATED:
        # What comes in by itself has a name that the registry took, perhaps long ago.
        vm_names.check(new.name)
    database_locks.lock(DatabaseLock.TREE_STRUCTURE, shared=True)
    parent = parent_of(new.parent_vm_id) if new.parent_vm_id else None
    authority.check(by, "write", parent)
    vm_id = new.vm_id or str(ULID())
    if known := Node.objects.filter(vm_id=vm_id).first():
        raise _taken(known)
    now = clock.now()
    node = Node(vm_id=vm_id, name=new.name, category=new.category, parent=parent)
    node.reef_config, node.created_at, node.updated_at = new.dna, now, now
    try:
        with transaction.atomic():
            node.save(force_insert=True)
    except IntegrityError:
        raise Conflict(f"VM '{vm_id}' exists already") from None
    _write_traits(node)
    _record([node], what, by, now)
    events.publish_nodes([vm_id])
    return node


@transaction.atomic
def change(vm_id: str, wish: Change, *, by: object) -> Node:
    """Rename, recategorise, give other DNA, or move with all that is below.

    Raises BadInput, NotFound, Forbidden.
    """
    moves = not isinstance(wish.parent_vm_id, _Unsaid)
    if moves:
        database_locks.lock(DatabaseLock.TREE_STRUCTURE)
    node = _locked(vm_id, missing=f"VM '{vm_id}' not found")
    authority.check(by, "write", node)
    before = _state(node)
    if not isinstance(wish.name, _Unsaid):
        if wish.name != node.name:
            vm_names.check(wish.name)
        node.name = wish.name
    if not isinstance(wish.category, _Unsaid):
        if wish.category != node.category:
            # What a VM is to the fleet is said by whoever commands it.
            authority.check(by, "command", node)
        node.category = wish.category
    if not isinstance(wish.dna, _Unsaid):
        node.reef_config = wish.dna
    if not isinstance(wish.parent_vm_id, _Unsaid) and wish.parent_vm_id != node.parent_vm_id:
        _move(node, wish.parent_vm_id, by)
    node.updated_at = clock.now()
    node.save(update_fields=["name", "category", "reef_config", "parent", "updated_at"])
    if _state(node) != before:
        _write_traits(node)
        _record([node], Revision.What.CHANGED, by, node.updated_at)
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
    """Make a tombstone of a VM, or with `subtree` of it and all below; how many were removed.

    A subtree needs `confirm`, the number of VMs that are meant, and goes out of the registry, too.
    With `guarded` nobody is removed whom apps above want to stay. Raises BadInput, Conflict (the
    number is another by now, or one must stay), NotFound, Forbidden.
    """
    database_locks.lock(DatabaseLock.TREE_STRUCTURE)
    node = _locked(vm_id)
    authority.check(by, "command", node)
    keys = keys_below(LINKS, node.pk)
    if not subtree and len(keys) > 1:
        count = Node.objects.living().filter(parent=node).count()
        raise BadInput(f"VM '{vm_id}' has {count} children. Remove or reassign them first.")
    if subtree:
        _check_confirmed(confirm, len(keys))
    now = clock.now()
    if guarded:
        for some in _chunks(keys):
            found = Node.objects.filter(pk__in=some).values_list("vm_id", flat=True)
            removal.check(list(found))
    tokens.revoke_all(keys)
    for some in _chunks(keys):
        rows = Node.objects.select_related("parent").filter(pk__in=some).order_by("pk")
        # Held, so that nobody changes them between being written down and removed.
        nodes = list(rows.select_for_update(of=("self",), no_key=True))
        _record(nodes, Revision.What.REMOVED, by, now)
        Node.objects.filter(pk__in=some).update(removed_at=now, updated_at=now)
        ids = [each.vm_id for each in nodes]
        if subtree:
            removal.follow(ids)
        events.publish_nodes(ids)
    return len(keys)


def issue_token(vm_id: str, *, by: object) -> tuple[Node, str]:
    """A new token for a node; those it had before are good no longer."""
    with transaction.atomic():
        node = _locked(vm_id)
        authority.check(by, permissions.Action.ISSUE_TOKENS, node)
        return node, tokens.issue(node, made_by=str(by))


def revoke_tokens(vm_id: str, *, by: object) -> int:
    """Revoke the tokens of a node and of everything below it; how many there were."""
    node = find(vm_id)
    authority.check(by, "command", node)
    return tokens.revoke(node)


def tokens_of(vm_id: str, *, by: object) -> list[NodeToken]:
    """When this node's tokens were made and revoked, newest first."""
    node = find(vm_id, removed=True)
    authority.check(by, "write", node)
    return list(node.tokens.all())


def mark_destroyed(vm_id: str) -> None:
    """Note that what ran at a node is destroyed; the node stays for those below it."""
    now = clock.now()
    node = Node.objects.living().filter(vm_id=vm_id, destroyed_at__isnull=True)
    if node.update(destroyed_at=now, updated_at=now):
        events.publish_nodes([vm_id])


def stats() -> dict[str, Any]:
    """How many living nodes there are, of each category that anybody has, and how many roots."""
    living = Node.objects.living()
    found = living.count_by_category()
    counted = living.aggregate(
        roots=Count("pk", filter=Q(parent__isnull=True)),
        # These nodes stay while others are below them.
        destroyed=Count("pk", filter=Q(destroyed_at__isnull=False)),
    )
    known = {"total": sum(found.values()), "byCategory": found, "roots": counted["roots"]}
    return {**known, "destroyed": counted["destroyed"]} if counted["destroyed"] else known


# -- rules of the above --------------------------------------------------------------------------


def _came_by_itself(vm_id: str) -> bool:
    """Whether all that ever happened to this VM in the tree is that it registered."""
    found = Revision.objects.filter(node__vm_id=vm_id).values_list("what", flat=True)
    return bool(vm_id) and set(found[:2]) == {Revision.What.PLACED}


def _put_by_hand(new: NewNode, by: object) -> Node:
    """Make of a VM that came in by itself what is said of it; what is not said stays."""
    wish = Change(
        name=new.name,
        category=new.category,
        dna=UNSAID if new.dna == empty() else new.dna,
        parent_vm_id=new.parent_vm_id or UNSAID,
    )
    node = change(new.vm_id, wish, by=by)
    if _came_by_itself(new.vm_id):
        # Said the same, it is by hand from now on, too.
        _record([node], Revision.What.CHANGED, by, node.updated_at)
    return node


def _locked(vm_id: str, *, missing: str = "VM not found") -> Node:
    node = Node.objects.select_for_update(no_key=True).living().filter(vm_id=vm_id).first()
    if node is None:
        raise NotFound(missing)
    return node


def _taken(known: Node) -> Conflict:
    if known.removed_at:
        return Conflict(f"VM '{known.vm_id}' was removed; its id is never given again")
    return Conflict(f"VM '{known.vm_id}' exists already")


def _move(node: Node, parent_vm_id: str | None, by: object) -> None:
    """Hang the node elsewhere. The shape is held, so nobody moves the new parent meanwhile."""
    parent = parent_of(parent_vm_id) if parent_vm_id else None
    authority.check(by, "command", node)
    authority.check(by, "write", parent)
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


def _state(node: Node) -> tuple[Any, ...]:
    return node.name, node.category, node.parent_id, node.reef_config


def _write_traits(node: Node) -> None:
    wanted = [
        Trait(node=node, kind=kind, name=name, position=position)
        for kind, names in (
            (Trait.Kind.ORGAN, node.organs),
            (Trait.Kind.CAPABILITY, node.capabilities),
        )
        for position, name in enumerate(names)
    ]
    Trait.objects.filter(node=node).delete()
    Trait.objects.bulk_create(wanted)


def _record(nodes: list[Node], what: Revision.What, by: object, at: datetime) -> None:
    """Write down what these nodes are now."""
    Revision.objects.bulk_create(
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
        for node in nodes
    )


def _chunks(keys: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(keys), _AT_ONCE):
        yield keys[start : start + _AT_ONCE]
