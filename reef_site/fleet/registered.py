"""Unplaced VMs, which only the registry knows: their rows, their side panel, and placing them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from lieutenants.models import Lieutenant
from reef_site.common.errors import BadInput
from reef_site.fleet.asked import number, spoken
from reef_site.fleet.facts import QUARTERS, facts_of, services_of, strip
from reef_site.fleet.lines import MOST_AT_ONCE, PAGE, Moment
from reef_site.fleet.roof import roof
from reef_site.fleet.states import state_of
from registry import placing, words
from registry.models import VM
from vmtree.models import Category, Node


@dataclass(frozen=True)
class Loose:
    """Row of an unplaced VM."""

    vm: VM
    state: str
    place: int


@dataclass(frozen=True)
class Page:
    """One page of rows in the order of ids, and how many follow."""

    rows: list[Loose]
    total: int
    more: int
    level: int = 3
    last: Loose | None = field(default=None)


def page(moment: Moment, *, after: str, place: int, limit: int, level: int) -> Page:
    """Return the page of unplaced VMs after the id `after`."""
    total = roof(moment).loose.count
    found = VM.objects.without_place().order_by("pk")
    vms = list((found.filter(pk__gt=after) if after else found)[: limit + 1])
    rows = _rows(vms[:limit], moment, place)
    more = max(1, total - place - limit) if len(vms) > limit else 0
    return Page(rows, max(total, place + len(rows)), more, level, rows[-1] if rows else None)


@dataclass(frozen=True)
class Found:
    """The first unplaced VMs that match a search, and the number of all matches."""

    rows: list[Loose]
    total: int
    level: int = 3


def matches(query: str, moment: Moment) -> Found:
    """Search the unplaced VMs; return nothing if the query has terms that only tree nodes match."""
    try:
        vms = words.narrow(VM.objects.without_place(), query).order_by("pk")
    except BadInput:
        return Found([], 0)
    rows = _rows(vms[:PAGE], moment, 0)
    return Found(rows, len(rows) if len(rows) < PAGE else vms.count())


def _rows(vms: Iterable[VM], moment: Moment, place: int) -> list[Loose]:
    shown = list(vms)
    agents = Lieutenant.objects.in_bulk([vm.pk for vm in shown])
    return [
        Loose(vm, state_of(vm, agents.get(vm.pk), moment.at, grace=moment.grace), number)
        for number, vm in enumerate(shown, place + 1)
    ]


@login_required
@require_GET
def children(request: HttpRequest) -> HttpResponse:
    """Render the next rows of the group: `?after=` (an id), `?place=`, `?limit=`, `?level=`."""
    found = page(
        Moment.now(),
        after=request.GET.get("after", "").replace("\0", ""),
        place=number(request, "place"),
        limit=number(request, "limit", usual=PAGE, most=MOST_AT_ONCE) or PAGE,
        level=number(request, "level", usual=3, most=100_000),
    )
    return render(request, "fleet/_loose_rows.html", {"page": found})


@login_required
@require_GET
@spoken
def one(request: HttpRequest) -> HttpResponse:
    """Show the unplaced VM with the id `?vm=`; redirect if it has a place in the tree."""
    vm_id = _vm_id(request.GET.get("vm", ""))
    if (node := _place_of(vm_id)) is not None:
        return redirect("fleet:one", node.pk)
    return render(request, "fleet/loose.html", _facts(vm_id))


@login_required
@require_GET
@spoken
def facts(request: HttpRequest) -> HttpResponse:
    """Render the side panel of the VM with the id `?vm=`, placed or not."""
    vm_id = _vm_id(request.GET.get("vm", ""))
    if (node := _place_of(vm_id)) is not None:
        return render(request, "fleet/_facts.html", facts_of(node.pk))
    return render(request, "fleet/_loose_facts.html", _facts(vm_id))


@login_required
@require_POST
@spoken
def place(request: HttpRequest) -> HttpResponse:
    """Add `vm` to the tree, under the VM with the id `under` or as a root."""
    vm = placing.find(_vm_id(request.POST.get("vm", "")))
    node = placing.place(
        vm,
        under=_vm_id(request.POST.get("under", "")),
        category=request.POST.get("category", ""),
        by=request.user,
    )
    where = f"under {node.parent}" if node.parent else "at top level"
    messages.success(request, f"{node} was added to the tree {where}.")
    return redirect("fleet:one", node.pk)


def _vm_id(given: str) -> str:
    return given.replace("\0", "").strip()[:255]


def _place_of(vm_id: str) -> Node | None:
    return Node.objects.living().filter(vm_id=vm_id).first()


def _facts(vm_id: str) -> dict[str, Any]:
    vm, moment = placing.find(vm_id), Moment.now()
    agent = Lieutenant.objects.filter(pk=vm.pk).first()
    above = _place_of(vm.parent_vm_id) if vm.parent_vm_id else None
    return {
        "vm": vm,
        "state": state_of(vm, agent, moment.at, grace=moment.grace),
        "was_removed": Node.objects.filter(vm_id=vm.pk).exists(),
        "above": above,
        "categories": Category.choices,
        "category": placing.usual_category(vm),
        "services": services_of(vm),
        "strip": strip(vm, moment.at),
        "quarters": QUARTERS,
    }
