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

from django.db import connection, transaction
from django.db.models import Count, Max

from reef_site.common import clock, events
from reef_site.common.errors import Conflict
from vmtree import authority
from vmtree.models import Revision
from vmtree.services import STRUCTURE
from vmtree.snapshot_models import Snapshot, Why
from vmtree.snapshots import applying, beside, checking, comparing, files, keeping, living, taking
from vmtree.snapshots.comparing import Comparison, LeftOut, Tree

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
    authority.check(by, "command", None)
    wanted, rows = comparing.contents_of(snapshot)
    found = _look(snapshot, wanted).plan
    others = beside.differences(beside.rows_now(), rows)
    return Plan(dataclasses.replace(found.comparison, beside=others), found.confirm)


def restore(snapshot: Snapshot, *, confirm: str, by: object) -> Restored:
    """Carry out a plan; take a snapshot of the present tree first.

    Other writers wait only while rows are written: everything is looked up before. Raises Conflict
    (the tree has changed since the plan), SnapshotDamaged, SnapshotFailed, Forbidden.
    """
    authority.check(by, "command", None)
    wanted = comparing.tree_of(snapshot)
    _agreed(_look(snapshot, wanted).plan, confirm)
    before = taking.make(by=by, why=Why.CHANGE)
    with files.opened(checking.ensure_good(snapshot)) as file:
        look = _look(snapshot, wanted)
        _agreed(look.plan, confirm)
        work = applying.prepare(look.plan.comparison, file)
        with transaction.atomic(durable=True):
            _be_alone()
            if not look.still_holds():
                look = _look(snapshot, wanted)
                _agreed(look.plan, confirm)
                work = applying.prepare(look.plan.comparison, file)
            changed = applying.apply(work, file, actor=str(by), at=clock.now())
    events.publish_nodes(changed)
    keeping.prune()
    return Restored(look.plan.comparison, before)


@dataclass(frozen=True)
class Look:
    """A plan, and a mark that shows whether it is still valid."""

    plan: Plan
    mark: Mark

    def still_holds(self) -> bool:
        """Return whether nothing has changed since the plan was made."""
        found = self.plan.comparison
        gone = [*(vm.vm_id for vm in found.removed), *(each.old.vm_id for each in found.kept)]
        kept = {each.old.vm_id: each.why for each in found.kept}
        coming = [vm.vm_id for vm in found.added]
        same = living.among(gone) == kept and not living.gone_among(coming)
        return self.mark == _mark() and same


def _look(snapshot: Snapshot, wanted: Tree) -> Look:
    # The mark first: a change after it invalidates the plan, even if the tree below shows it
    # already.
    mark, now = _mark(), comparing.tree_now()
    ghosts = living.gone_among([vm_id for vm_id in wanted if vm_id not in now])
    coming = comparing.without(wanted, ghosts) if ghosts else wanted
    found = comparing.differences(now, coming)
    alive = living.among([vm.vm_id for vm in found.removed])
    found = comparing.keeping(found, now, coming, alive)
    left_out = [LeftOut(wanted[vm_id], why) for vm_id, why in ghosts.items()]
    found = dataclasses.replace(found, left_out=left_out)
    return Look(Plan(found, f"{snapshot.sha256[:8]}-{found.digest()}"), mark)


def _mark() -> Mark:
    """Return a value that differs after each change of the tree: every change adds a revision."""
    found = Revision.objects.aggregate(last=Max("pk"), count=Count("pk"))
    return found["last"], found["count"]


def _agreed(found: Plan, confirm: str) -> None:
    if found.confirm != confirm:
        raise Conflict(
            "confirm: the tree has changed since this comparison was made; look at the new one"
        )


def _be_alone() -> None:
    """Lock out all other writers of nodes until commit. SQLite has a single writer anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # In this order: moving a node takes the first lock and then waits for the second.
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [STRUCTURE])
            cursor.execute("LOCK TABLE vmtree_node IN EXCLUSIVE MODE")
