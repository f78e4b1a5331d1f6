"""The tree as a snapshot shows it, in one transaction or not at all.

The living become those of the snapshot. History is never undone: what came later becomes
tombstones, what was removed lives again under its old id, and each change is one more revision.
VMs that the database has never heard of come with their history. The registry, which tells who
answers now, and tokens stay as they are, but those of removed VMs are revoked.

Nobody is buried alive: a VM that the snapshot does not know, but whose lieutenant lives or that
the registry hears of, keeps its node and its token. It hangs below the nearest VM above it that
stays, and a revision says so. Nor does a ghost rise: a VM whose lieutenant was destroyed since
does not come back.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from django.db import connection, transaction
from django.db.models import Count, Max

from reef_site.common import clock, database_locks, events
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.errors import Conflict
from vmtree import authority
from vmtree.models import Revision
from vmtree.snapshot_models import Snapshot, Why
from vmtree.snapshots import applying, beside, checking, comparing, files, keeping, living, taking
from vmtree.snapshots.comparing import Comparison, LeftOut, Tree

Mark = tuple[int | None, int]


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
    """What restoring this snapshot would do now; and what else differs, which stays as it is.

    Raises SnapshotDamaged, Conflict, Forbidden.
    """
    authority.check(by, "command", None)
    wanted, rows = comparing.contents_of(snapshot)
    found = _look(snapshot, wanted).plan
    others = beside.differences(beside.rows_now(), rows)
    return Plan(dataclasses.replace(found.comparison, beside=others), found.confirm)


def restore(snapshot: Snapshot, *, confirm: str, by: object) -> Restored:
    """Do what `plan` showed; the tree as it is goes into a snapshot first.

    Others wait for no more than what is really written: all is looked up before.
    Raises Conflict (the tree is another by now), SnapshotDamaged, SnapshotFailed, Forbidden.
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
    """A plan, and by what it is known whether it still holds."""

    plan: Plan
    mark: Mark

    def still_holds(self) -> bool:
        """Whether nothing has come since that the plan does not know."""
        found = self.plan.comparison
        gone = [*(vm.vm_id for vm in found.removed), *(each.old.vm_id for each in found.kept)]
        kept = {each.old.vm_id: each.why for each in found.kept}
        coming = [vm.vm_id for vm in found.added]
        same = living.among(gone) == kept and not living.gone_among(coming)
        return self.mark == _mark() and same


def _look(snapshot: Snapshot, wanted: Tree) -> Look:
    # The mark first: what comes after it is noticed, though the tree may show it already.
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
    """Another one after each change of the tree: every change is a revision."""
    found = Revision.objects.aggregate(last=Max("pk"), count=Count("pk"))
    return found["last"], found["count"]


def _agreed(found: Plan, confirm: str) -> None:
    if found.confirm != confirm:
        raise Conflict(
            "confirm: the tree has changed since this comparison was made; look at the new one"
        )


def _be_alone() -> None:
    """Nobody else writes nodes until the end of the transaction. SQLite has one writer anyway."""
    # In this order: whoever moves nodes takes the first and then waits for the second.
    database_locks.lock(DatabaseLock.TREE_STRUCTURE)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE vmtree_node IN EXCLUSIVE MODE")
