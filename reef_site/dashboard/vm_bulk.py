"""Actions on many VMs, each with everything below it: one operation for each topmost VM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.db.models import QuerySet
from django.http import QueryDict
from django.urls import reverse

from reef_site.common.errors import BadInput
from reef_site.common.lists.bulk import (
    BulkAction,
    BulkList,
    Person,
    PlannedRow,
    Result,
    Turn,
    bulk_lists,
)
from reef_site.dashboard import vm_list
from vmtree import permissions, search
from vmtree.models import Node
from vmtree.operations import handlers, services
from vmtree.operations.models import Operation
from vmtree.operations.plan import MAX_VMS
from vmtree.permissions import Action
from vmtree.queries.subtrees import Subtrees

_DOES = {
    Operation.PAUSE: "Pause it and everything below",
    Operation.RESUME: "Resume it and everything below",
    Operation.DESTROY: "Destroy it and everything below",
}
_RIGHT = "operations.change_job"


def register() -> None:
    """Register the list of VMs and the tree; both have the same actions.

    Workers run operations only in a reef that has lieutenants.
    """
    operations = Operation if "lieutenant" in settings.ORGANS else ()
    actions = {each.key: each for each in map(_action_of, operations)}
    silent = (("Silent", "q=silent"), ("Late", "q=late"), ("Paused", "q=paused"))
    vms = BulkList(
        key="vms",
        noun="VMs",
        url_name="fleet:vms",
        find=_find_vms,
        url_of=_url_of,
        actions=actions,
        presets=(*silent, ("Not in the tree", "q=unplaced")),
        organ="vm-tree",
    )
    tree = BulkList(
        key="tree",
        noun="VMs",
        url_name="fleet:tree",
        find=_find_nodes,
        url_of=_url_of,
        actions=actions,
        presets=(("Failed", "q=error"), ("Working", "q=working"), *silent),
        organ="vm-tree",
    )
    for each in (vms, tree):
        bulk_lists.register(each, key=each.key)


def _url_of(vm_id: str) -> str:
    return f"{reverse('fleet:by-id')}?{urlencode({'vm': vm_id})}"


def _find_vms(values: QueryDict, person: Person) -> QuerySet[Any, Any]:
    return vm_list.find(values, person).order_by("pk").values_list("pk", flat=True)


def _find_nodes(values: QueryDict, _person: Person) -> QuerySet[Any, Any]:
    """Return the VMs that the tree's query matches; parents that it only shows are not among them.

    Without a query these are all VMs, or those below `?under=`.
    """
    nodes: QuerySet[Node] = Node.objects.active()
    if under := values.get("under", ""):
        nodes = search.narrow(nodes, f'under:"{under}"')
    nodes = search.narrow(nodes, values.get("q", "").strip()[: search.LONGEST + 1])
    return nodes.order_by("pk").values_list("vm_id", flat=True)


def _action_of(operation: Operation) -> BulkAction:
    is_destroy = operation == Operation.DESTROY
    return BulkAction(
        key=operation.value,
        label=operation.label.capitalize(),
        plan=partial(_plan, operation),
        run=partial(_run, operation),
        is_destructive=is_destroy,
        takes_snapshot=is_destroy,
    )


def _plan(operation: Operation, vm_ids: Sequence[str], person: Person) -> list[PlannedRow]:
    """Return a row for each VM; those below another chosen one are part of its operation."""
    trees = Subtrees(vm_ids)
    below = {vm_id: trees.below(vm_id) for vm_id in vm_ids if trees.is_topmost(vm_id)}
    count = sum(map(len, below.values()))
    if count > MAX_VMS:
        raise BadInput(f"{count:,} VMs are more than one plan takes ({MAX_VMS:,}). Choose fewer.")
    effects = handlers.effects(operation, [each for mine in below.values() for each in mine])
    planner = _Planner(operation, trees, below, effects, person)
    return [planner.row(vm_id) for vm_id in vm_ids]


class _Planner:
    """Plans one row after the other, from what was read for all of them."""

    def __init__(
        self,
        operation: Operation,
        trees: Subtrees,
        below: dict[str, list[str]],
        effects: dict[str, tuple[handlers.Handler, handlers.Effect]],
        person: Person,
    ) -> None:
        self.operation, self.trees, self.below = operation, trees, below
        self.effects, self.person = effects, person
        is_destroy = operation == Operation.DESTROY
        self.right = Action.DESTROY if is_destroy else Action.COMMAND

    def row(self, vm_id: str) -> PlannedRow:
        """Return the plan for one VM."""
        does, name = _DOES[self.operation], self.trees.name_of(vm_id)
        if refused := self._refusal(vm_id):
            return PlannedRow(vm_id, name, does, refused)
        effects = [self.effects[each][1] for each in self.below[vm_id]]
        changed = [effect for effect in effects if not effect.left_out]
        if not changed:
            reason = effects[0].left_out
            more = f", and so are {len(effects) - 1} below" if len(effects) > 1 else ""
            return PlannedRow(vm_id, name, does, f"left out: {reason}{more}")
        left_out = len(effects) - len(changed)
        warning = f"{left_out} of {len(effects)} VMs are left out" if left_out else ""
        if len(effects) == 1:
            does = f"{effects[0].does[:1].upper()}{effects[0].does[1:]}"
        return PlannedRow(vm_id, name, does, warning=warning, count=len(changed))

    def _refusal(self, vm_id: str) -> str:
        """Return why nothing happens to the VM by itself; empty if something does."""
        if not self.trees.is_known(vm_id):
            return "has no place in the tree"
        if top := self.trees.chosen_above(vm_id):
            return f"is below {self.trees.name_of(top) or top}, which is chosen as well"
        may_start = self.person.has_perm(_RIGHT)  # type: ignore[union-attr]
        if not may_start or not permissions.may(self.person, self.right, vm_id):
            return f"you may not {self.right} it"
        return ""


def _run(operation: Operation, turn: Turn, person: Person) -> Result:
    """Start the operation, unless it would change another number of VMs than was confirmed."""
    job, continued = services.start(
        operation, turn.target, by=person, confirm=turn.count, snapshot=turn.snapshot
    )
    return Result("operation continued" if continued else "operation started", job.pk)
