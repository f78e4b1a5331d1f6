"""The side panel of the tree: everything known about one VM."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone

from bootloader.models import Machine
from reef_site.common.errors import NotFound
from reef_site.dashboard.tree_rows import Moment, TreeRow, annotate, counted
from registry.models import VM, Gap, Status
from vmtree import dna, lineage
from vmtree import names as vm_names
from vmtree.models import LINKS, Node, Revision

DAY = timedelta(days=1)
# Width of the uptime bar, in quarters of an hour.
QUARTERS = 96
MAX_REVISIONS = 20
MAX_PATH = 30
MAX_GAPS = 200


@dataclass(frozen=True)
class Segment:
    """One segment of the uptime bar: position, width, and kind."""

    x: float
    width: float
    kind: str
    began_at: datetime
    ended_at: datetime

    @property
    def words(self) -> str:
        """Description for tooltips and screen readers."""
        began, ended = timezone.localtime(self.began_at), timezone.localtime(self.ended_at)
        what = {"heard": "heard", "silent": "no heartbeat"}.get(self.kind, self.kind)
        return f"{what} {began:%H:%M} to {ended:%H:%M}"


@dataclass(frozen=True)
class Change:
    """A revision and its differences from the one before, in words."""

    revision: Revision
    what: list[str]


def vm_details(key: int, other: str = "") -> dict[str, Any]:
    """Return the panel's context for a node, removed or not; `other` is a VM id to compare with."""
    node = counted(Node.objects.select_related("parent").filter(pk=key)).first()
    if node is None:
        raise NotFound("VM not found")
    moment, row = Moment.now(), TreeRow(node)
    annotate([row], moment)
    if node.removed_at:
        row.state = "removed"
    return {
        "row": row,
        "node": node,
        "vm": row.vm,
        "path": _path(node),
        "changes": _changes(node),
        "services": services_of(row.vm),
        "uptime_bar": uptime_bar(row.vm, moment.at) if row.vm else [],
        "quarters": QUARTERS,
        "commands_url": _commands_url(node),
        "compared": _compared(node, other) if other else None,
        "other": other,
    }


def _commands_url(node: Node) -> str:
    """Return the page of the commands on a VM; empty if it has no machine that may be reached."""
    if "bootloader" not in settings.ORGANS:
        return ""
    machine = Machine.objects.active().filter(vm_id=node.vm_id).first()
    return f"{reverse('bootloader:commands')}?machine={machine.pk}" if machine else ""


def _path(node: Node) -> list[Node | None]:
    """Return the nodes from the root to this one; None stands for omitted ones of a long path."""
    keys = lineage.ancestor_keys(LINKS, node.pk)
    if len(keys) > MAX_PATH:
        keys = [keys[0], None, *keys[-MAX_PATH:]]
    nodes = Node.objects.in_bulk([key for key in keys if key])
    return [nodes[key] if key else None for key in keys]


def services_of(vm: VM | None) -> list[tuple[str, str]]:
    """Return name and description of each service."""
    found = []
    for each in vm.services if vm else []:
        if isinstance(each, dict):
            rest = " ".join(f"{key} {value}" for key, value in each.items() if key != "name")
            found.append((str(each.get("name", "service")), rest[:300]))
        else:
            found.append((str(each)[:300], ""))
    return found


def _compared(node: Node, other: str) -> dict[str, Any]:
    """Return the difference between its composition and that of another VM."""
    with_it = Node.objects.filter(vm_id=other).first()
    if with_it is None:
        return {"problem": f"There is no VM {other!r}."}
    return {"with": with_it, **dna.diff(with_it.reef_config, node.reef_config)}


# -- history -------------------------------------------------------------------------------------


def _changes(node: Node) -> list[Change]:
    """Return the newest revisions of the node, newest first."""
    newest: QuerySet[Revision] = Revision.objects.filter(node=node).order_by("-id")
    found = list(newest[: MAX_REVISIONS + 1])
    predecessors: list[Revision | None] = [*found[1:], None]
    # The predecessor of the oldest fetched revision is unknown unless it is the first.
    pairs = list(zip(found, predecessors, strict=False))[:MAX_REVISIONS]
    return [Change(new, differences(old, new)) for new, old in pairs]


def differences(old: Revision | None, new: Revision) -> list[str]:
    """Describe what changed between two revisions; empty if there is no older one."""
    if old is None:
        return []
    texts = []
    if old.name != new.name:
        before, after = (vm_names.marked(each.name) or "—" for each in (old, new))
        texts.append(f"name: {before} → {after}")
    if old.category != new.category:
        texts.append(f"category: {old.get_category_display()} → {new.get_category_display()}")
    if old.parent_vm_id != new.parent_vm_id:
        texts.append(f"parent: {old.parent_vm_id or 'none'} → {new.parent_vm_id or 'none'}")
    if old.reef_config != new.reef_config:
        changed = dna.diff(old.reef_config, new.reef_config)
        signs = [("+", changed["added"]), ("−", changed["removed"])]
        names = [f"{sign}{name}" for sign, both in signs for each in both.values() for name in each]
        texts.append("DNA: " + (" ".join(names) or "reordered"))
    return texts


# -- heartbeats ----------------------------------------------------------------------------------


def uptime_bar(vm: VM, at: datetime) -> list[Segment]:
    """Return the uptime bar of the last 24 hours, from the registration on, with its gaps."""
    start = max(at - DAY, vm.registered_at)
    gaps: list[tuple[datetime, datetime, str]] = [
        (gap.began_at, gap.ended_at, gap.status)
        for gap in Gap.objects.filter(vm_id=vm.pk, ended_at__gt=start)[:MAX_GAPS]
    ]
    if vm.late_after is None or vm.late_after <= at:
        gaps.append((vm.last_seen, at, vm.status))
    found, position = [], start
    for began, ended, status in gaps:
        began = max(began, position)
        if began > position:
            found.append(_segment(position, began, "heard", at))
        if ended > began:
            kind = "silent" if status == Status.RUNNING else status
            found.append(_segment(began, ended, kind, at))
            position = ended
    if position < at:
        found.append(_segment(position, at, "heard", at))
    return found


def _segment(began: datetime, ended: datetime, kind: str, at: datetime) -> Segment:
    x = QUARTERS * (1 - (at - began) / DAY)
    width = QUARTERS * ((ended - began) / DAY)
    # Short segments stay visible.
    width = max(width, 0.25)
    return Segment(round(min(x, QUARTERS - width), 2), round(width, 2), kind, began, ended)
