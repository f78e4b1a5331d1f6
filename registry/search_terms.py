"""Search terms of the registry: liveness, status and role, for nodes of the tree and for VMs."""

from __future__ import annotations

from collections.abc import Callable

from django.db import connection

from reef_site.common import clock
from reef_site.common.errors import BadInput
from registry import queries
from registry.liveness import Liveness
from registry.models import VM, Role, Status, VMQuerySet
from vmtree import aliases, search
from vmtree.models import Node
from vmtree.search import Nodes, Term, has_text, parse

Find = Callable[[VMQuerySet], VMQuerySet]


def _live(vms: VMQuerySet) -> VMQuerySet:
    return vms.filter(status=Status.RUNNING, late_after__gt=clock.now())


def _has_status(status: Status) -> Find:
    return lambda vms: vms.filter(status=status)


_VM_FLAGS: dict[str, Find] = {
    "silent": lambda vms: vms.called(Liveness.SILENT, clock.now()),
    "late": lambda vms: vms.called(Liveness.LATE, clock.now()),
    "live": _live,
    **{status.value: _has_status(status) for status in Status},
}
_CHOICES: dict[str, tuple[str, ...]] = {"status": tuple(Status.values), "role": tuple(Role.values)}


def register() -> None:
    """Add the terms to the search over the tree."""
    unknown = Term(
        "unknown", lambda nodes, _: nodes.exclude(vm_id__in=VM.objects.values("pk")), flag=True
    )
    terms = [
        *(_node_flag(name, find) for name, find in _VM_FLAGS.items()),
        unknown,
        *(_node_choice(column, values) for column, values in _CHOICES.items()),
    ]
    for term in terms:
        search.search_terms.register(term, key=term.name)


def _node_flag(name: str, find: Find) -> Term:
    def narrow(nodes: Nodes, _: str) -> Nodes:
        return nodes.filter(vm_id__in=find(VM.objects.all()).values("pk"))

    return Term(name, narrow, flag=True)


def _node_choice(column: str, values: tuple[str, ...]) -> Term:
    def narrow(nodes: Nodes, value: str) -> Nodes:
        return nodes.filter(vm_id__in=VM.objects.filter(**{column: value}).values("pk"))

    return Term(column, narrow, values=values)


# -- VMs themselves ----------------------------------------------------------------------------


def narrow(vms: VMQuerySet, query: str) -> VMQuerySet:
    """Return the VMs that match the whole query. Raises BadInput that lists the terms."""
    for term, value in parse(query, _VM_FILTERS):
        if term:
            vms = term.narrow(vms, value)
        elif value:
            vms = vms.filter(has_text(value, "name", "id"))
    return vms


def with_liveness(vms: VMQuerySet, value: str) -> VMQuerySet:
    """Return the VMs with this liveness now. Raises BadInput that lists the values."""
    if value not in Liveness.values:
        raise BadInput(f"liveness: must be one of {', '.join(Liveness.values)}", "liveness")
    return vms.called(Liveness(value), clock.now())


def _vm_flag(name: str, find: Find) -> Term:
    return Term(name, lambda vms, _: find(vms), flag=True)


def _vm_choice(column: str, field: str, values: tuple[str, ...] = ()) -> Term:
    return Term(column, lambda vms, value: vms.filter(**{field: value}), values=values)


def _vm_alias(column: str, field: str) -> Term:
    return Term(column, lambda vms, value: vms.filter(**{field: aliases.resolve(value)}))


def _dna_filter(kind: str) -> Term:
    """Build a term for the organs or capabilities of the registered DNA."""

    def narrow(vms: VMQuerySet, name: str) -> VMQuerySet:
        if connection.vendor == "postgresql":
            return vms.filter(**{f"reef_config__{kind}__contains": [name]})
        return vms.filter(pk__in=queries.ids_with_dna(kind, name))

    return Term({"organs": "organ", "capabilities": "cap"}[kind], narrow)


def _tree_filter(name: str) -> Term:
    """Build a term for VMs whose nodes match a term of the tree."""
    term = search.search_terms[name]

    def narrow(vms: VMQuerySet, value: str) -> VMQuerySet:
        return vms.filter(pk__in=term.narrow(Node.objects.active(), value).values("vm_id"))

    return Term(name, narrow, values=term.values)


_VM_FILTERS: dict[str, Term] = {
    "organ": _dna_filter("organs"),
    "cap": _dna_filter("capabilities"),
    "capability": _dna_filter("capabilities"),
    "category": _tree_filter("category"),
    "under": _tree_filter("under"),
    **{name: _vm_flag(name, find) for name, find in _VM_FLAGS.items()},
    **{name: _vm_choice(name, name, values) for name, values in _CHOICES.items()},
    "unplaced": Term("unplaced", lambda vms, _: vms.without_place(), flag=True),
    "id": _vm_alias("id", "id"),
    "parent": _vm_alias("parent", "parent_vm_id"),
}
