"""Differences between two trees, each from a snapshot or the present. Only active nodes count."""

from __future__ import annotations

import dataclasses
import hashlib
import sqlite3
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from django.db.models import TextField
from django.db.models.functions import Cast

from vmtree import dna
from vmtree.models import Node
from vmtree.snapshot_models import Snapshot
from vmtree.snapshots import files, queries, table_diff, verification
from vmtree.snapshots.table_diff import Difference, Rows

Json = dict[str, Any]


class TreeVM(NamedTuple):
    """An active VM of a tree; `config` is JSON."""

    vm_id: str
    name: str
    category: str
    parent: str | None
    config: str | None

    @property
    def dna(self) -> dna.Dna | None:
        """Return organs and capabilities."""
        return orjson.loads(self.config) if self.config else None


Tree = dict[str, TreeVM]
Pair = tuple[TreeVM, TreeVM]


class KeptVM(NamedTuple):
    """An alive VM that only the first tree has: before, after, and why it is kept."""

    old: TreeVM
    new: TreeVM
    why: str


class OmittedVM(NamedTuple):
    """A VM of the second tree that is destroyed, so it is not restored."""

    vm: TreeVM
    why: str


@dataclass(frozen=True)
class Comparison:
    """Differences from one tree to another; pairs are a VM before and after."""

    added: list[TreeVM] = field(default_factory=list)
    removed: list[TreeVM] = field(default_factory=list)
    moved: list[Pair] = field(default_factory=list)
    other_dna: list[Pair] = field(default_factory=list)
    # Name or category differs.
    renamed: list[Pair] = field(default_factory=list)
    # Only for restoring: alive VMs are not removed but moved below the nearest ancestor that stays.
    kept: list[KeptVM] = field(default_factory=list)
    # Only for restoring: the children of omitted VMs move below the nearest restored ancestor.
    omitted: list[OmittedVM] = field(default_factory=list)
    # Differences of further tables, which are not restored.
    beside: dict[str, Difference] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of VMs by kind of difference; a VM may be in several."""
        return {key: len(found) for key, found in self._parts().items()}

    @property
    def changed(self) -> Tree:
        """Return VMs of both trees with any difference, with their new values."""
        return {new.vm_id: new for _, new in (*self.moved, *self.other_dna, *self.renamed)}

    @property
    def is_empty(self) -> bool:
        """Return whether the trees are equal."""
        return not any(self._parts().values())

    def as_json(self, limit: int) -> Json:
        """Return counts, and the first `limit` VMs of each kind of difference."""
        return {
            "counts": self.counts,
            "truncated": any(len(difference) > limit for difference in self._parts().values()),
            "added": [_place(each) for each in self.added[:limit]],
            "removed": [_place(each) for each in self.removed[:limit]],
            "moved": [_change(*pair, "parent") for pair in self.moved[:limit]],
            "dnaChanged": [_dna_change(*pair) for pair in self.other_dna[:limit]],
            "renamed": [_change(*pair, "name", "category") for pair in self.renamed[:limit]],
            "kept": [
                {**_change(each.old, each.new, "parent"), "why": each.why}
                for each in self.kept[:limit]
            ],
            "leftOut": [{**_place(each.vm), "why": each.why} for each in self.omitted[:limit]],
            **{name: difference.as_json(limit) for name, difference in self.beside.items()},
        }

    def digest(self) -> str:
        """Return a short hash of exactly these differences."""
        found = hashlib.sha256()
        for key, rows in self._parts().items():
            found.update(orjson.dumps([key, *sorted(repr(row) for row in rows)]))
        return found.hexdigest()[:16]

    def _parts(self) -> dict[str, list[Any]]:
        return {
            "added": self.added,
            "removed": self.removed,
            "moved": self.moved,
            "dnaChanged": self.other_dna,
            "renamed": self.renamed,
            "kept": self.kept,
            "leftOut": self.omitted,
        }


def compare(old: Snapshot, new: Snapshot | None) -> Comparison:
    """Compare a snapshot with another one, or with the present.

    Raises SnapshotDamaged, Conflict.
    """
    (before, old_rows), (after, new_rows) = contents(old), contents(new)
    found = differences(before, after)
    return dataclasses.replace(found, beside=table_diff.differences(old_rows, new_rows))


def contents(snapshot: Snapshot | None) -> tuple[Tree, Rows]:
    """Return the tree and the further tables of a snapshot (verified first), or of the present."""
    if snapshot is None:
        return current_tree(), table_diff.current_rows()
    with files.opened(verification.ensure_intact(snapshot)) as file:
        return read_tree(file), table_diff.read_rows(file)


def snapshot_tree(snapshot: Snapshot) -> Tree:
    """Return the active nodes of a snapshot, after verifying its file."""
    with files.opened(verification.ensure_intact(snapshot)) as file:
        return read_tree(file)


def read_tree(file: sqlite3.Connection) -> Tree:
    """Return the active nodes of an open snapshot."""
    return {row[0]: TreeVM(*row) for row in queries.active_nodes(file)}


def current_tree() -> Tree:
    """Return the active nodes of the database, as the current transaction sees them."""
    config = Cast("reef_config", TextField())
    columns = ("vm_id", "name", "category", "parent__vm_id")
    rows = Node.objects.active().annotate(config=config).values_list(*columns, "config")
    return {row[0]: TreeVM(*row) for row in rows.iterator(5000)}


def differences(old: Tree, new: Tree) -> Comparison:
    """Compare two trees; differences keep the order of the trees."""
    both = [(old[vm_id], after) for vm_id, after in new.items() if vm_id in old]
    found = [pair for pair in both if pair[0] != pair[1]]
    return Comparison(
        added=[each for vm_id, each in new.items() if vm_id not in old],
        removed=[each for vm_id, each in old.items() if vm_id not in new],
        moved=[(a, b) for a, b in found if a.parent != b.parent],
        other_dna=[(a, b) for a, b in found if a.config != b.config and a.dna != b.dna],
        renamed=[(a, b) for a, b in found if (a.name, a.category) != (b.name, b.category)],
    )


def without(wanted: Tree, gone: dict[str, str]) -> Tree:
    """Return the tree without the VMs of `gone`; their children move to the next ancestor."""

    def parent_of(vm: TreeVM) -> str | None:
        parent = vm.parent
        while parent is not None and parent in gone:
            parent = wanted[parent].parent if parent in wanted else None
        return parent

    return {
        vm_id: vm._replace(parent=parent_of(vm)) if vm.parent in gone else vm
        for vm_id, vm in wanted.items()
        if vm_id not in gone
    }


def keep_alive(found: Comparison, now: Tree, wanted: Tree, alive: dict[str, str]) -> Comparison:
    """Return the comparison with alive VMs kept, each below its nearest ancestor that stays."""
    remaining = wanted.keys() | alive.keys()

    def kept(vm: TreeVM) -> KeptVM:
        parent = vm.parent
        while parent is not None and parent not in remaining:
            parent = now[parent].parent if parent in now else None
        return KeptVM(vm, vm._replace(parent=parent), alive[vm.vm_id])

    return dataclasses.replace(
        found,
        removed=[vm for vm in found.removed if vm.vm_id not in alive],
        kept=[kept(vm) for vm in found.removed if vm.vm_id in alive],
    )


def _place(vm: TreeVM) -> Json:
    return {
        "vmId": vm.vm_id,
        "name": vm.name,
        "category": vm.category,
        "parentVmId": vm.parent,
    }


_KEYS = {"parent": "parentVmId", "name": "name", "category": "category"}


def _change(old: TreeVM, new: TreeVM, *fields: str) -> Json:
    """Return these fields before and after."""

    def values(vm: TreeVM) -> Json:
        return {_KEYS[each]: getattr(vm, each) for each in fields}

    return {"vmId": new.vm_id, "name": new.name, "from": values(old), "to": values(new)}


def _dna_change(old: TreeVM, new: TreeVM) -> Json:
    return {"vmId": new.vm_id, "name": new.name, **dna.diff(old.dna, new.dna)}
