"""What differs between two trees, each a snapshot's or that of now. Only the living count."""

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
from vmtree.snapshots import beside, checking, files
from vmtree.snapshots.beside import Difference, Rows

Json = dict[str, Any]


class Living(NamedTuple):
    """A VM in one of the trees; `config` is JSON."""

    vm_id: str
    name: str
    category: str
    parent: str | None
    config: str | None

    @property
    def dna(self) -> dna.Dna | None:
        """Its organs and capabilities."""
        return orjson.loads(self.config) if self.config else None


Tree = dict[str, Living]
Pair = tuple[Living, Living]


class Kept(NamedTuple):
    """A VM that lives and is in the first tree only: as it is, as it will be, and why it stays."""

    old: Living
    new: Living
    why: str


class LeftOut(NamedTuple):
    """A VM of the second tree that is gone for good, so it does not come back."""

    vm: Living
    why: str


@dataclass(frozen=True)
class Comparison:
    """From one tree to another; pairs are a VM as it was and as it is then."""

    added: list[Living] = field(default_factory=list)
    removed: list[Living] = field(default_factory=list)
    moved: list[Pair] = field(default_factory=list)
    other_dna: list[Pair] = field(default_factory=list)
    # Another name or category.
    renamed: list[Pair] = field(default_factory=list)
    # Only of restoring: whoever lives is not removed, but hung below the nearest that stays.
    kept: list[Kept] = field(default_factory=list)
    # Only of restoring, too: who stood below them hangs below the nearest that comes.
    left_out: list[LeftOut] = field(default_factory=list)
    # Of the tables beside the tree, which are not restored.
    beside: dict[str, Difference] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many VMs of each kind of difference; a VM may be in several."""
        return {key: len(found) for key, found in self._parts().items()}

    @property
    def changed(self) -> Tree:
        """VMs that are in both trees, with any difference, as they are then."""
        return {new.vm_id: new for _, new in (*self.moved, *self.other_dna, *self.renamed)}

    @property
    def is_empty(self) -> bool:
        """Whether the trees are the same."""
        return not any(self._parts().values())

    def as_json(self, limit: int) -> Json:
        """Counts, and of each kind of difference the first so many."""
        return {
            "counts": self.counts,
            "truncated": any(len(found) > limit for found in self._parts().values()),
            "added": [_place(each) for each in self.added[:limit]],
            "removed": [_place(each) for each in self.removed[:limit]],
            "moved": [_change(*pair, "parent") for pair in self.moved[:limit]],
            "dnaChanged": [_dna_change(*pair) for pair in self.other_dna[:limit]],
            "renamed": [_change(*pair, "name", "category") for pair in self.renamed[:limit]],
            "kept": [
                {**_change(each.old, each.new, "parent"), "why": each.why}
                for each in self.kept[:limit]
            ],
            "leftOut": [{**_place(each.vm), "why": each.why} for each in self.left_out[:limit]],
            **{name: found.as_json(limit) for name, found in self.beside.items()},
        }

    def digest(self) -> str:
        """A short text that stands for exactly these differences."""
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
            "leftOut": self.left_out,
        }


def compare(old: Snapshot, new: Snapshot | None) -> Comparison:
    """From a snapshot to another one, or to now. Raises SnapshotDamaged, Conflict."""
    (before, some), (after, others) = contents_of(old), contents_of(new)
    found = differences(before, after)
    return dataclasses.replace(found, beside=beside.differences(some, others))


def contents_of(snapshot: Snapshot | None) -> tuple[Tree, Rows]:
    """Tree and tables beside it of a snapshot, whose file is verified before, or of now."""
    if snapshot is None:
        return tree_now(), beside.rows_now()
    with files.opened(checking.ensure_good(snapshot)) as file:
        return read_tree(file), beside.rows_of(file)


def tree_of(snapshot: Snapshot) -> Tree:
    """The living of a snapshot, after its file was verified."""
    with files.opened(checking.ensure_good(snapshot)) as file:
        return read_tree(file)


def read_tree(file: sqlite3.Connection) -> Tree:
    """The living of an open snapshot."""
    sql = (
        "SELECT vm_id, name, category, parent_vm_id, reef_config FROM nodes"
        " WHERE removed_at IS NULL ORDER BY created_at, id"
    )
    return {row[0]: Living(*row) for row in file.execute(sql)}


def tree_now() -> Tree:
    """The living of the database, as the present transaction sees them."""
    config = Cast("reef_config", TextField())
    columns = ("vm_id", "name", "category", "parent__vm_id")
    rows = Node.objects.living().annotate(config=config).values_list(*columns, "config")
    return {row[0]: Living(*row) for row in rows.iterator(5000)}


def differences(old: Tree, new: Tree) -> Comparison:
    """From one tree to the other, in the order of the trees."""
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
    """The tree without those, their children below the nearest above them that is there."""

    def parent_of(vm: Living) -> str | None:
        parent = vm.parent
        while parent is not None and parent in gone:
            parent = wanted[parent].parent if parent in wanted else None
        return parent

    return {
        vm_id: vm._replace(parent=parent_of(vm)) if vm.parent in gone else vm
        for vm_id, vm in wanted.items()
        if vm_id not in gone
    }


def keeping(found: Comparison, now: Tree, wanted: Tree, alive: dict[str, str]) -> Comparison:
    """The same, but those who live stay, each below the nearest above it that stays, too."""
    stays = wanted.keys() | alive.keys()

    def kept(vm: Living) -> Kept:
        parent = vm.parent
        while parent is not None and parent not in stays:
            parent = now[parent].parent if parent in now else None
        return Kept(vm, vm._replace(parent=parent), alive[vm.vm_id])

    return dataclasses.replace(
        found,
        removed=[vm for vm in found.removed if vm.vm_id not in alive],
        kept=[kept(vm) for vm in found.removed if vm.vm_id in alive],
    )


def _place(vm: Living) -> Json:
    return {
        "vmId": vm.vm_id,
        "name": vm.name,
        "category": vm.category,
        "parentVmId": vm.parent,
    }


_KEYS = {"parent": "parentVmId", "name": "name", "category": "category"}


def _change(old: Living, new: Living, *fields: str) -> Json:
    """What it was and what it is then, of these fields."""

    def said(vm: Living) -> Json:
        return {_KEYS[each]: getattr(vm, each) for each in fields}

    return {"vmId": new.vm_id, "name": new.name, "from": said(old), "to": said(new)}


def _dna_change(old: Living, new: Living) -> Json:
    return {"vmId": new.vm_id, "name": new.name, **dna.diff(old.dna, new.dna)}
