"""Applies a comparison to nodes, traits and revisions, inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import TextField
from django.db.models.functions import Cast

from reef_site.common.eventlog import recording
from reef_site.common.eventlog.recording import NewEvent
from vmtree import operator_tokens, tokens
from vmtree.models import Node, Revision
from vmtree.queries import bulk
from vmtree.snapshots import queries
from vmtree.snapshots.tree_diff import Comparison, TreeVM

Keys = dict[str, int]
_NODE = ("vm_id", "name", "category", "reef_config", "created_at", "updated_at", "removed_at")
_TRAIT = ("node_id", "kind", "name", "position")
_REVISION = (
    *("node_id", "at", "actor", "what"),
    *("name", "category", "parent_vm_id", "reef_config"),
)


class RestoreWork(NamedTuple):
    """Everything to write for a comparison, looked up before other writers are locked out."""

    comparison: Comparison
    keys: Keys
    # Rows of nodes that exist in the file only.
    unknown: list[tuple[Any, ...]]
    other_dna: list[TreeVM]


def prepare(comparison: Comparison, file: sqlite3.Connection) -> RestoreWork:
    """Do all the work that only reads."""
    keys = _keys()
    added = {vm.vm_id: vm for vm in comparison.added}
    changed_dna = [*_revived_with_changed_dna(added), *(vm for _, vm in comparison.other_dna)]
    return RestoreWork(comparison, keys, _unknown(file, keys), changed_dna)


def apply(work: RestoreWork, file: sqlite3.Connection, *, actor: str, at: datetime) -> list[str]:
    """Make the tree match the comparison. Return the ids of all changed VMs."""
    comparison, keys = work.comparison, _add_unknown(work, file)
    changed = comparison.changed
    moved = [each.new for each in comparison.kept if each.old.parent != each.new.parent]
    # Also those of nodes that were removed before removals revoked them.
    operator_tokens.revoke_all((keys[vm.vm_id] for vm in comparison.added), by=actor)
    _update_nodes([*comparison.added, *changed.values(), *moved], keys, at)
    _set_traits(work.other_dna, keys)
    removed = [*comparison.removed, *_omitted_unknown(work)]
    _remove(removed, keys, at, actor)
    writer = RevisionWriter(keys, actor[:200], at)
    writer.write(Revision.What.RESTORED, comparison.added)
    writer.write(Revision.What.CHANGED, changed.values())
    writer.write(Revision.What.REMOVED, removed)
    writer.write(Revision.What.KEPT, [each.new for each in comparison.kept])
    others = [*comparison.added, *comparison.removed, *moved]
    return [*changed, *(vm.vm_id for vm in others)]


class RevisionWriter(NamedTuple):
    """Writes the revisions of one restore."""

    keys: Keys
    actor: str
    at: datetime

    def write(self, what: Revision.What, vms: Iterable[TreeVM]) -> None:
        """Add a revision for each VM with its new state, and an event."""
        vms = list(vms)
        recording.record_many([_event(vm, what) for vm in vms], actor=self.actor)
        common = (bulk.to_column_time(self.at), self.actor, what.value)
        rows = (
            (self.keys[vm.vm_id], *common, vm.name, vm.category, vm.parent, vm.config) for vm in vms
        )
        bulk.insert("vmtree_revision", _REVISION, rows)


def _event(vm: TreeVM, what: Revision.What) -> NewEvent:
    facts = {"name": vm.name, "category": vm.category, "parentVmId": vm.parent}
    return NewEvent(f"tree.{what.value}", vm.vm_id, facts)


# -- nodes ---------------------------------------------------------------------------------------


def _keys() -> Keys:
    return dict(Node.objects.values_list("vm_id", "pk"))


def _update_nodes(vms: Iterable[TreeVM], keys: Keys, at: datetime) -> None:
    """Make these nodes, which all exist, active with the given values."""
    now = bulk.to_column_time(at)
    columns = ("name", "category", "parent_id", "reef_config", "updated_at", "removed_at")
    rows = [
        (vm.name, vm.category, _key(vm.parent, keys), vm.config, now, None, keys[vm.vm_id])
        for vm in vms
    ]
    bulk.update("vmtree_node", columns, rows)


def _key(vm_id: str | None, keys: Keys) -> int | None:
    return keys[vm_id] if vm_id else None


def _remove(vms: list[TreeVM], keys: Keys, at: datetime, actor: str) -> None:
    found, now = [keys[vm.vm_id] for vm in vms], bulk.to_column_time(at)
    tokens.revoke_all(found)
    operator_tokens.revoke_all(found, by=actor)
    bulk.update("vmtree_node", ("removed_at", "updated_at"), ((now, now, key) for key in found))


def _omitted_unknown(work: RestoreWork) -> Iterator[TreeVM]:
    """Return omitted VMs that exist in the file only; they are added as removed nodes, with
    history.
    """
    return (each.vm for each in work.comparison.omitted if each.vm.vm_id not in work.keys)


def _revived_with_changed_dna(added: dict[str, TreeVM]) -> Iterator[TreeVM]:
    """Return VMs whose removed nodes have other DNA; for all others the traits still match."""
    config = Cast("reef_config", TextField())
    removed = Node.objects.filter(removed_at__isnull=False).annotate(config=config)
    for vm_id, had in removed.values_list("vm_id", "config").iterator(5000):
        vm = added.get(vm_id)
        if vm and vm.config != had and vm.dna != vm._replace(config=had).dna:
            yield vm


def _set_traits(vms: list[TreeVM], keys: Keys) -> None:
    bulk.delete("vmtree_trait", "node_id", (keys[vm.vm_id] for vm in vms))
    rows = ((keys[vm.vm_id], *trait) for vm in vms for trait in _traits(vm))
    bulk.insert("vmtree_trait", _TRAIT, rows)


def _traits(vm: TreeVM) -> Iterator[tuple[str, str, int]]:
    dna = vm.dna or {}
    for kind, key in (("organ", "organs"), ("capability", "capabilities")):
        for position, name in enumerate(dna.get(key, [])):
            yield kind, name, position


# -- nodes that exist in the file only -----------------------------------------------------------


def _unknown(file: sqlite3.Connection, known: Keys) -> list[tuple[Any, ...]]:
    return [
        (*row[:4], *map(bulk.to_column_time, row[4:]))
        for row in queries.all_nodes(file)
        if row[0] not in known
    ]


def _add_unknown(work: RestoreWork, file: sqlite3.Connection) -> Keys:
    """Add VMs that exist in the file only, with traits and history. Return all nodes' keys."""
    known = work.keys
    if not work.unknown:
        return known
    bulk.insert("vmtree_node", _NODE, work.unknown)
    keys = _keys()
    new = {vm_id: key for vm_id, key in keys.items() if vm_id not in known}
    _add_parents(file, new, keys)
    bulk.insert("vmtree_trait", _TRAIT, _of(new, queries.traits(file)))
    _add_history(file, new)
    return keys


def _add_parents(file: sqlite3.Connection, new: Keys, keys: Keys) -> None:
    """Set the parents once all rows exist: a parent may follow its children in the file."""
    pairs = queries.parents(file)
    rows = [(keys[parent], new[vm_id]) for vm_id, parent in pairs if vm_id in new]
    bulk.update("vmtree_node", ("parent_id",), rows)


def _add_history(file: sqlite3.Connection, new: Keys) -> None:
    found = _of(new, queries.revisions(file))
    rows = ((key, bulk.to_column_time(at), *rest) for key, at, *rest in found)
    bulk.insert("vmtree_revision", _REVISION, rows)


def _of(new: Keys, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Return rows whose first value is a new id, with the key in its place."""
    return ((new[row[0]], *row[1:]) for row in rows if row[0] in new)
