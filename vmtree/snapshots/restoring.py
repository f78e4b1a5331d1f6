"""The tree as a snapshot shows it, in one transaction or not at all.

The living become exactly those of the snapshot. History is never undone: what came later becomes
tombstones, what was removed lives again under its old id, and each change is one more revision.
VMs that the database has never heard of come with their history. The registry, which tells who
answers now, and tokens stay as they are, but those of removed VMs are revoked.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection, transaction

from vmtree import authority, bells, dates
from vmtree.exceptions import Conflict
from vmtree.services import STRUCTURE
from vmtree.snapshot_models import Snapshot, Why
from vmtree.snapshots import checking, files, keeping, taking
from vmtree.snapshots.applying import apply
from vmtree.snapshots.comparing import Comparison, differences, read_tree, tree_now, tree_of


@dataclass(frozen=True)
class Plan:
    """What restoring would change, and the word that agrees to exactly this."""

    comparison: Comparison
    confirm: str


@dataclass(frozen=True)
class Restored:
    """What was changed, and the snapshot of what was before."""

    comparison: Comparison
    before: Snapshot


def plan(snapshot: Snapshot, *, by: object) -> Plan:
    """What restoring this snapshot would do now. Raises SnapshotDamaged, Conflict, Forbidden."""
    authority.check(by, "command", None)
    return _planned(snapshot, differences(tree_now(), tree_of(snapshot)))


def restore(snapshot: Snapshot, *, confirm: str, by: object) -> Restored:
    """Do what `plan` showed; the tree as it is goes into a snapshot first.

    Raises Conflict (the tree is another by now), SnapshotDamaged, SnapshotFailed, Forbidden.
    """
    _agreed(plan(snapshot, by=by), confirm)
    before = taking.make(by=by, why=Why.CHANGE)
    path = checking.ensure_good(snapshot)
    with transaction.atomic(durable=True), files.opened(path) as file:
        _be_alone()
        comparison = differences(tree_now(), read_tree(file))
        _agreed(_planned(snapshot, comparison), confirm)
        changed = apply(comparison, file, actor=str(by), at=dates.now())
    bells.tell_nodes(changed)
    keeping.prune()
    return Restored(comparison, before)


def _planned(snapshot: Snapshot, comparison: Comparison) -> Plan:
    return Plan(comparison, f"{snapshot.sha256[:8]}-{comparison.digest()}")


def _agreed(found: Plan, confirm: str) -> None:
    if found.confirm != confirm:
        raise Conflict(
            "confirm: the tree has changed since this comparison was made; look at the new one"
        )


def _be_alone() -> None:
    """Nobody else writes nodes until the end of the transaction. SQLite has one writer anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # In this order: whoever moves nodes takes the first and then waits for the second.
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [STRUCTURE])
            cursor.execute("LOCK TABLE vmtree_node IN EXCLUSIVE MODE")
