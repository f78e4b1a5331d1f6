"""Discovery on this host, on all machines, and in the registry."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import Q

from lieutenants.hosts import liveness
from lieutenants.models import Lieutenant
from lieutenants.supervision.discovery import call
from lieutenants.supervision.discovery.local import discover_here
from lieutenants.supervision.discovery.registered import name_of
from registry.models import VM, Role
from vmtree.models import Category, Node

NOTHING_FOUND = "No lieutenants found in registry"


def discover(*, by: object) -> list[str]:
    """Return one line for each agent and machine, then for each other known lieutenant.

    A machine that has not answered yet has a line that says so, and goes on in the background.
    """
    results = discover_here()
    results |= call.lines(by=by)
    lines = [*results.values(), *_other_lines(results)]
    return lines or [NOTHING_FOUND]


def _other_lines(results: dict[str, str]) -> Iterator[str]:
    """Yield a line for each lieutenant of registry and tree that no machine has told of."""
    registered = VM.objects.filter(role=Role.LIEUTENANT).newest_first()
    seen = set(results).union(*map(str.split, results))
    # An older server registered the VM itself as the lieutenant.
    seen.update(Lieutenant.objects.filter(pk__in=seen).values_list("on_vm", flat=True))
    for vm in registered:
        if vm.pk not in seen:
            yield _describe_registered(vm)
        seen.add(vm.pk)
    for node in Node.objects.active().filter(category=Category.LIEUTENANT).order_by("vm_id"):
        if node.vm_id not in seen and not Lieutenant.objects.filter(pk=node.vm_id).exists():
            yield f"{node.name or node.vm_id}: not ours — it is only in the tree, left alone"


def _describe_registered(vm: VM) -> str:
    """Describe a registered lieutenant whose agent was found nowhere."""
    name = name_of(vm)
    same = Lieutenant.objects.filter(Q(pk=vm.pk) | Q(name=name))
    if living := same.active().first():
        host = liveness.silent_host_of(living)
        if host and not host.is_here:
            return f"{name}: {host.trouble}; take over: manage.py adopt {host.name}"
        return f"{name}: already tracked"
    if same.exists():
        return f"{name}: destroyed, not brought back"
    where = f"VM {vm.pk[:12]}, {vm.status}"
    return f"{name}: left alone, its agent does not run on this host ({where})"
