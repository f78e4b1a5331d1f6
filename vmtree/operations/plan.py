"""Plan of an operation: which VMs are touched, in which order, and why others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reef_site.common.batches import batched
from reef_site.common.errors import BadInput
from reef_site.common.hooks import Hook
from vmtree.lineage import descendant_keys
from vmtree.models import LINKS, Node
from vmtree.operations import handlers
from vmtree.operations.handlers import Effect
from vmtree.operations.models import Operation

MAX_VMS = 20_000
# Maps the ids of VMs that are known as children of the given ones to their names.
FindChildren = Callable[[Sequence[str]], Mapping[str, str]]
child_finders: Hook[FindChildren] = Hook(
    "operations.child_finders",
    "Find VMs that are known as children of these, whether they are in the tree or not.",
)
NOT_IN_TREE = "is registered as a child, but has no place in the tree"


@dataclass(frozen=True)
class PlannedStep:
    """One VM of a plan. `above` is its parent's id if the parent is in the plan, else empty."""

    vm_id: str
    name: str
    category: str
    above: str
    handler: str
    does: str
    left_out: str = ""


@dataclass(frozen=True)
class Plan:
    """Steps in execution order."""

    verb: Operation
    vm_id: str
    name: str
    steps: list[PlannedStep]

    @property
    def changed_steps(self) -> list[PlannedStep]:
        """Return the steps that change a VM."""
        return [step for step in self.steps if not step.left_out]

    @property
    def left_out(self) -> list[PlannedStep]:
        """Return the steps that are skipped."""
        return [step for step in self.steps if step.left_out]

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Return each reason for skipping with its number of VMs, most frequent first."""
        return Counter(step.left_out for step in self.left_out).most_common()


def make_plan(verb: Operation, top: Node) -> Plan:
    """Return the plan as of now; changes nothing. Raises BadInput for more than MAX_VMS."""
    nodes = _subtree(top)
    effects = handlers.effects(verb, [node.vm_id for node in nodes])
    ids = {node.pk: node.vm_id for node in nodes}
    steps = [
        _planned_step(node, ids.get(node.parent_id or 0, ""), *_named(effects[node.vm_id]))
        for node in nodes
    ]
    # Nodes are in breadth-first order: parents before children, or the reverse.
    if verb.leaves_first:
        steps.reverse()
    return Plan(verb, top.vm_id, top.name, [*steps, *_unplaced_children(verb, list(ids.values()))])


def _subtree(top: Node) -> list[Node]:
    keys = descendant_keys(LINKS, top.pk)
    if len(keys) > MAX_VMS:
        raise BadInput(f"{len(keys)} VMs are more than one job takes ({MAX_VMS}): take parts")
    rows: dict[int, Node] = {}
    for some in batched(keys):
        rows |= Node.objects.active().in_bulk(some)
    return [rows[key] for key in keys if key in rows]


def _planned_step(node: Node, above: str, handler: str, effect: Effect) -> PlannedStep:
    return PlannedStep(
        vm_id=node.vm_id,
        name=node.name,
        category=node.category,
        above=above,
        handler=handler,
        does=effect.does,
        left_out=effect.left_out,
    )


def _named(found: tuple[handlers.Handler, Effect]) -> tuple[str, Effect]:
    handler, effect = found
    return handler.name, effect


def _unplaced_children(verb: Operation, vm_ids: list[str]) -> list[PlannedStep]:
    """Return skipped steps for registered children of these VMs that are not in the tree."""
    children: dict[str, str] = {}
    for some in batched(vm_ids):
        for find_children in child_finders:
            children |= find_children(some)
    for some in batched(list(children)):
        for known in Node.objects.filter(vm_id__in=some).values_list("vm_id", flat=True):
            del children[known]
    return [
        PlannedStep(vm_id, name, "", "", "registry", f"{verb} it", NOT_IN_TREE)
        for vm_id, name in children.items()
    ]
