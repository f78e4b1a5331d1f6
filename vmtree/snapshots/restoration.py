"""Restores the tree of a snapshot, in one transaction or not at all.

Active nodes become those of the snapshot. History is never undone: later nodes are marked as
removed, removed nodes become active again under their old ids, and each change is one more
revision. VMs that the database does not know are added with their history. The registry and tokens
stay as they are; only tokens of removed VMs are revoked.

A VM that the snapshot does not have, but that is alive (its lieutenant exists, or the registry
hears from it), keeps its node and its token. It moves below its nearest ancestor that stays, and a
revision records it. A VM whose lieutenant was destroyed since is not restored.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Count, Max

from reef_site.common import clock, database_locks, events
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.errors import Conflict
from reef_site.common.eventlog import recording
from vmtree import permissions
from vmtree.models import Revision
from vmtree.queries.nodes import lock_table
from vmtree.snapshot_models import Snapshot, Why
from vmtree.snapshots import (
    creation,
    files,
    restore_hooks,
    restore_writer,
    retention,
    table_diff,
    tree_diff,
    verification,
)
from vmtree.snapshots.tree_diff import Comparison, OmittedVM, Tree

Mark = tuple[int | None, int]


@dataclass(frozen=True)
class Plan:
    """The changes that restoring would make, and the code that confirms exactly these."""

    comparison: Comparison
    confirm: str


@dataclass(frozen=True)
class Restored:
    """The changes made, and the snapshot taken before."""

    comparison: Comparison
    before: Snapshot


def plan(snapshot: Snapshot, *, by: object) -> Plan:
    """Return what restoring this snapshot would do now, and further differences, which stay.

    Raises SnapshotDamaged, Conflict, Forbidden.
    """
    permissions.check(by, "command", None)
    wanted, rows = tree_diff.contents(snapshot)
    found = _make_plan(snapshot, wanted).plan
    others = table_diff.differences(table_diff.current_rows(), rows)
    return Plan(dataclasses.replace(found.comparison, beside=others), found.confirm)


def restore(snapshot: Snapshot, *, confirm: str, by: object) -> Restored:
    """Carry out a plan; take a snapshot of the present tree first.

    Other writers wait only while rows are written: everything is looked up before. Raises Conflict
    (the tree has changed since the plan), SnapshotDamaged, SnapshotFailed, Forbidden.
    """
    permissions.check(by, "command", None)
    wanted = tree_diff.snapshot_tree(snapshot)
    _check_confirmed(_make_plan(snapshot, wanted).plan, confirm)
    before = creation.create(by=by, why=Why.CHANGE)
    with files.opened(verification.ensure_intact(snapshot)) as file:
        checked = _make_plan(snapshot, wanted)
        _check_confirmed(checked.plan, confirm)
        work = restore_writer.prepare(checked.plan.comparison, file)
        with transaction.atomic(durable=True):
            _be_alone()
            if not checked.is_current():
                checked = _make_plan(snapshot, wanted)
                _check_confirmed(checked.plan, confirm)
                work = restore_writer.prepare(checked.plan.comparison, file)
            changed = restore_writer.apply(work, file, actor=str(by), at=clock.now())
            detail = {"changed": len(changed), "before": before.file}
            recording.record("snapshot.restored", snapshot.file, actor=by, detail=detail, vm_id="")
    events.publish_nodes(changed)
    retention.prune()
    return Restored(checked.plan.comparison, before)


@dataclass(frozen=True)
class CheckedPlan:
    """A plan, and a mark that shows whether it is still valid."""

    plan: Plan
    mark: Mark

    def is_current(self) -> bool:
        """Return whether nothing has changed since the plan was made."""
        comparison = self.plan.comparison
        gone = [
            *(vm.vm_id for vm in comparison.removed),
            *(each.old.vm_id for each in comparison.kept),
        ]
        kept = {each.old.vm_id: each.why for each in comparison.kept}
        restored = [vm.vm_id for vm in comparison.added]
        same = restore_hooks.among(gone) == kept and not restore_hooks.gone_among(restored)
        return self.mark == _mark() and same


def _make_plan(snapshot: Snapshot, wanted: Tree) -> CheckedPlan:
    # The mark first: a change after it invalidates the plan, even if the tree below shows it
    # already.
    mark, now = _mark(), tree_diff.current_tree()
    gone = restore_hooks.gone_among([vm_id for vm_id in wanted if vm_id not in now])
    restored = tree_diff.without(wanted, gone) if gone else wanted
    comparison = tree_diff.differences(now, restored)
    alive = restore_hooks.among([vm.vm_id for vm in comparison.removed])
    comparison = tree_diff.keep_alive(comparison, now, restored, alive)
    omitted = [OmittedVM(wanted[vm_id], why) for vm_id, why in gone.items()]
    comparison = dataclasses.replace(comparison, omitted=omitted)
    return CheckedPlan(Plan(comparison, f"{snapshot.sha256[:8]}-{comparison.digest()}"), mark)


def _mark() -> Mark:
    """Return a value that differs after each change of the tree: every change adds a revision."""
    found = Revision.objects.aggregate(last=Max("pk"), count=Count("pk"))
    return found["last"], found["count"]


def _check_confirmed(found: Plan, confirm: str) -> None:
    if found.confirm != confirm:
        raise Conflict(
            "confirm: the tree has changed since this comparison was made; look at the new one"
        )


def _be_alone() -> None:
    """Lock out all other writers of nodes until commit. SQLite has a single writer anyway."""
    # In this order: moving a node takes the first lock and then waits for the second.
    database_locks.lock(DatabaseLock.TREE_STRUCTURE)
    lock_table()
