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
from reef_site.common.page_values import number_value, text_value
from reef_site.common.paging import take_page
from reef_site.dashboard.errors import render_errors
from reef_site.dashboard.root_row import root_summary
from reef_site.dashboard.side_panel import QUARTERS, services_of, uptime_bar, vm_details
from reef_site.dashboard.states import state_of
from reef_site.dashboard.tree_rows import MAX_PAGE_SIZE, PAGE, Moment
from registry import placement, search_terms
from registry.models import VM
from vmtree.models import Category, Node


@dataclass(frozen=True)
class UnplacedRow:
    """Row of an unplaced VM."""

    vm: VM
    state: str
    place: int


@dataclass(frozen=True)
class Page:
    """One page of rows in the order of ids, and how many follow."""

    rows: list[UnplacedRow]
    total: int
    more: int
    level: int = 3
    last: UnplacedRow | None = field(default=None)


def page(moment: Moment, *, after: str, place: int, limit: int, level: int) -> Page:
    """Return the page of unplaced VMs after the id `after`."""
    total = root_summary(moment).loose.count
    result = VM.objects.without_place().order_by("pk")
    vms, has_more = take_page(result.filter(pk__gt=after) if after else result, limit)
    rows = _rows(vms, moment, place)
    more = max(1, total - place - limit) if has_more else 0
    return Page(rows, max(total, place + len(rows)), more, level, rows[-1] if rows else None)


@dataclass(frozen=True)
class Found:
    """The first unplaced VMs that match a search, and the number of all matches."""

    rows: list[UnplacedRow]
    total: int
    level: int = 3


def matches(query: str, moment: Moment) -> Found:
    """Search the unplaced VMs; return nothing if the query has terms that only tree nodes match."""
    try:
        vms = search_terms.narrow(VM.objects.without_place(), query).order_by("pk")
    except BadInput:
        return Found([], 0)
    rows = _rows(vms[:PAGE], moment, 0)
    return Found(rows, len(rows) if len(rows) < PAGE else vms.count())


def _rows(vms: Iterable[VM], moment: Moment, place: int) -> list[UnplacedRow]:
    shown = list(vms)
    lieutenants = Lieutenant.objects.in_bulk([vm.pk for vm in shown])
    return [
        UnplacedRow(vm, state_of(vm, lieutenants.get(vm.pk), moment.at, grace=moment.grace), number)
        for number, vm in enumerate(shown, place + 1)
    ]


@login_required
@require_GET
def children(request: HttpRequest) -> HttpResponse:
    """Render the next rows of the group: `?after=` (an id), `?place=`, `?limit=`, `?level=`."""
    result = page(
        Moment.now(),
        after=text_value(request.GET, "after", 255),
        place=number_value(request.GET, "place"),
        limit=number_value(request.GET, "limit", default=PAGE, most=MAX_PAGE_SIZE) or PAGE,
        level=number_value(request.GET, "level", default=3, most=100_000),
    )
    return render(request, "fleet/_unplaced_rows.html", {"page": result})


@login_required
@require_GET
@render_errors
def one(request: HttpRequest) -> HttpResponse:
    """Show the unplaced VM with the id `?vm=`; redirect if it has a place in the tree."""
    vm_id = text_value(request.GET, "vm", 255)
    if (node := _node_of(vm_id)) is not None:
        return redirect("fleet:one", node.pk)
    return render(request, "fleet/unplaced.html", _facts(vm_id))


@login_required
@require_GET
@render_errors
def facts(request: HttpRequest) -> HttpResponse:
    """Render the side panel of the VM with the id `?vm=`, placed or not."""
    vm_id = text_value(request.GET, "vm", 255)
    if (node := _node_of(vm_id)) is not None:
        return render(request, "fleet/_panel.html", vm_details(node.pk))
    return render(request, "fleet/_unplaced_panel.html", _facts(vm_id))


@login_required
@require_POST
@render_errors
def place(request: HttpRequest) -> HttpResponse:
    """Add `vm` to the tree, under the VM with the id `under` or as a root."""
    vm = placement.find(text_value(request.POST, "vm", 255))
    node = placement.place(
        vm,
        under=text_value(request.POST, "under", 255),
        category=request.POST.get("category", ""),
        by=request.user,
    )
    where = f"under {node.parent}" if node.parent else "at top level"
    messages.success(request, f"{node} was added to the tree {where}.")
    return redirect("fleet:one", node.pk)


def _node_of(vm_id: str) -> Node | None:
    return Node.objects.active().filter(vm_id=vm_id).first()


def _facts(vm_id: str) -> dict[str, Any]:
    vm, moment = placement.find(vm_id), Moment.now()
    lieutenant = Lieutenant.objects.filter(pk=vm.pk).first()
    parent = _node_of(vm.parent_vm_id) if vm.parent_vm_id else None
    return {
        "vm": vm,
        "state": state_of(vm, lieutenant, moment.at, grace=moment.grace),
        "was_removed": Node.objects.filter(vm_id=vm.pk).exists(),
        "parent": parent,
        "categories": Category.choices,
        "category": placement.default_category(vm),
        "services": services_of(vm),
        "uptime_bar": uptime_bar(vm, moment.at),
        "quarters": QUARTERS,
    }
