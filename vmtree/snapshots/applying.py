"""A comparison → rows: nodes, their traits, their revisions. Inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import orjson

from vmtree import tokens
from vmtree.models import Node, Revision, Trait
from vmtree.snapshots.comparing import Comparison, Living

_AT_ONCE = 500
Item = TypeVar("Item")
Keys = dict[str, int]


class _Stored(NamedTuple):
    """A node as the file has it."""

    vm_id: str
    name: str
    category: str
    parent: str | None
    config: str | None
    created_at: str
    updated_at: str
    removed_at: str | None


def apply(
    comparison: Comparison, file: sqlite3.Connection, *, actor: str, at: datetime
) -> list[str]:
    """Make the tree what the comparison leads to; the ids of all VMs that changed."""
    keys = _add_unknown(file)
    added = {vm.vm_id: vm for vm in comparison.added}
    changed = comparison.changed
    _set([*added.values(), *changed.values()], keys, at)
    _set_traits([*added.values(), *(vm for _, vm in comparison.other_dna)], keys)
    _remove(comparison.removed, keys, at)
    noted = Notes(keys, actor[:200], at)
    noted.write(Revision.What.RESTORED, added.values())
    noted.write(Revision.What.CHANGED, changed.values())
    noted.write(Revision.What.REMOVED, comparison.removed)
    return [*added, *changed, *(vm.vm_id for vm in comparison.removed)]


class Notes(NamedTuple):
    """How the changes of one restore are written down."""

    keys: Keys
    actor: str
    at: datetime

    def write(self, what: Revision.What, vms: Iterable[Living]) -> None:
        """A revision for each of these VMs, with what they are after it."""
        revisions = (self._revision(what, vm) for vm in vms)
        for some in _chunks(revisions):
            Revision.objects.bulk_create(some)

    def _revision(self, what: Revision.What, vm: Living) -> Revision:
        return Revision(
            node_id=self.keys[vm.vm_id],
            at=self.at,
            actor=self.actor,
            what=what,
            name=vm.name,
            category=vm.category,
            parent_vm_id=vm.parent,
            reef_config=vm.dna,
        )


# -- nodes ---------------------------------------------------------------------------------------


def _keys() -> Keys:
    return dict(Node.objects.values_list("vm_id", "pk"))


def _set(vms: Iterable[Living], keys: Keys, at: datetime) -> None:
    """Have these nodes, which all exist, live and be as given."""
    nodes = (
        Node(
            pk=keys[vm.vm_id],
            vm_id=vm.vm_id,
            name=vm.name,
            category=vm.category,
            parent_id=keys[vm.parent] if vm.parent else None,
            reef_config=vm.dna,
            updated_at=at,
            removed_at=None,
        )
        for vm in vms
    )
    _overwrite(nodes, "name", "category", "parent", "reef_config", "updated_at", "removed_at")


def _overwrite(nodes: Iterable[Node], *fields: str) -> None:
    """Set these fields of nodes that exist, some hundred a statement."""
    for some in _chunks(nodes):
        Node.objects.bulk_create(
            some, update_conflicts=True, unique_fields=["id"], update_fields=list(fields)
        )


def _remove(vms: list[Living], keys: Keys, at: datetime) -> None:
    found = [keys[vm.vm_id] for vm in vms]
    tokens.revoke_all(found)
    for some in _chunks(found):
        Node.objects.filter(pk__in=some).update(removed_at=at, updated_at=at)


def _set_traits(vms: list[Living], keys: Keys) -> None:
    for some in _chunks(vms):
        Trait.objects.filter(node__in=[keys[vm.vm_id] for vm in some]).delete()
        Trait.objects.bulk_create(
            [trait for vm in some for trait in _traits(keys[vm.vm_id], vm)], batch_size=_AT_ONCE
        )


def _traits(node_id: int, vm: Living) -> Iterator[Trait]:
    dna = vm.dna or {}
    for kind, key in ((Trait.Kind.ORGAN, "organs"), (Trait.Kind.CAPABILITY, "capabilities")):
        for position, name in enumerate(dna.get(key, [])):
            yield Trait(node_id=node_id, kind=kind, name=name, position=position)


# -- nodes that the database does not know -------------------------------------------------------


def _add_unknown(file: sqlite3.Connection) -> Keys:
    """Add VMs that only the file knows, with their history; the keys of all nodes."""
    known = _keys()
    sql = (
        "SELECT vm_id, name, category, parent_vm_id, reef_config, created_at, updated_at,"
        " removed_at FROM nodes ORDER BY id"
    )
    unknown = [_Stored(*row) for row in file.execute(sql) if row[0] not in known]
    if not unknown:
        return known
    for some in _chunks(unknown):
        Node.objects.bulk_create([_node(stored) for stored in some])
    keys = _keys()
    # Parents come second: one may stand behind its children.
    children = (_node(each, keys) for each in unknown if each.parent)
    _overwrite(children, "parent")
    gone = [Living(*each[:5]) for each in unknown if each.removed_at]
    _set_traits(gone, keys)
    _add_history(file, {each.vm_id for each in unknown}, keys)
    return keys


def _node(stored: _Stored, keys: Keys | None = None) -> Node:
    """A new node without a parent, or with `keys` the same with its own key and its parent's."""
    return Node(
        pk=keys[stored.vm_id] if keys else None,
        vm_id=stored.vm_id,
        name=stored.name,
        category=stored.category,
        parent_id=keys[stored.parent] if keys and stored.parent else None,
        reef_config=_json(stored.config),
        created_at=datetime.fromisoformat(stored.created_at),
        updated_at=datetime.fromisoformat(stored.updated_at),
        removed_at=datetime.fromisoformat(stored.removed_at) if stored.removed_at else None,
    )


def _add_history(file: sqlite3.Connection, vm_ids: set[str], keys: Keys) -> None:
    rows = file.execute(
        "SELECT vm_id, at, actor, what, name, category, parent_vm_id, reef_config"
        " FROM revisions ORDER BY id"
    )
    revisions = (_revision(keys[row[0]], row) for row in rows if row[0] in vm_ids)
    for some in _chunks(revisions):
        Revision.objects.bulk_create(some)


def _revision(node_id: int, row: tuple[Any, ...]) -> Revision:
    _, at, actor, what, name, category, parent, config = row
    return Revision(
        node_id=node_id,
        at=datetime.fromisoformat(at),
        actor=actor,
        what=what,
        name=name,
        category=category,
        parent_vm_id=parent,
        reef_config=_json(config),
    )


def _json(text: str | None) -> Any:
    return orjson.loads(text) if text else None


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while some := list(islice(remaining, _AT_ONCE)):
        yield some
