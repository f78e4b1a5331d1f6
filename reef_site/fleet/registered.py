"""VMs that are in the registry only: rows under a group of their own, one's facts, its way up."""

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
from reef_site.fleet.errors import render_errors
from reef_site.fleet.facts import QUARTERS, facts_of, services_of, strip
from reef_site.fleet.lines import MOST_AT_ONCE, PAGE, Moment
from reef_site.fleet.roof import roof
from reef_site.fleet.states import state_of
from registry import placing, search_terms
from registry.models import VM
from vmtree.models import Category, Node


@dataclass(frozen=True)
class Loose:
    """A row."""

    vm: VM
    state: str
    place: int


@dataclass(frozen=True)
class Page:
    """Some rows in the order of ids, and how many follow."""

    rows: list[Loose]
    total: int
    more: int
    level: int = 3
    last: Loose | None = field(default=None)


def page(moment: Moment, *, after: str, place: int, limit: int, level: int) -> Page:
    """Those behind the id `after`."""
    total = roof(moment).loose.count
    found = VM.objects.without_place().order_by("pk")
    vms, has_more = take_page(found.filter(pk__gt=after) if after else found, limit)
    rows = _rows(vms, moment, place)
    more = max(1, total - place - limit) if has_more else 0
    return Page(rows, max(total, place + len(rows)), more, level, rows[-1] if rows else None)


@dataclass(frozen=True)
class Found:
    """Rows of the first ones that a search finds, and how many it finds in all."""

    rows: list[Loose]
    total: int
    level: int = 3


def matches(query: str, moment: Moment) -> Found:
    """What a search of the tree finds here; nothing, if it has words that need a place there."""
    try:
        vms = search_terms.narrow(VM.objects.without_place(), query).order_by("pk")
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
    """The next rows of the group: `?after=` an id, `?place=`, `?limit=`, `?level=` as elsewhere."""
    found = page(
        Moment.now(),
        after=text_value(request.GET, "after", 255),
        place=number_value(request.GET, "place"),
        limit=number_value(request.GET, "limit", default=PAGE, most=MOST_AT_ONCE) or PAGE,
        level=number_value(request.GET, "level", default=3, most=100_000),
    )
    return render(request, "fleet/_loose_rows.html", {"page": found})


@login_required
@require_GET
@render_errors
def one(request: HttpRequest) -> HttpResponse:
    """All that is known of the VM whose id is `?vm=`."""
    vm_id = text_value(request.GET, "vm", 255)
    if (node := _place_of(vm_id)) is not None:
        return redirect("fleet:one", node.pk)
    return render(request, "fleet/loose.html", _facts(vm_id))


@login_required
@require_GET
@render_errors
def facts(request: HttpRequest) -> HttpResponse:
    """What stands beside the tree; once it has a place there, what is known of that."""
    vm_id = text_value(request.GET, "vm", 255)
    if (node := _place_of(vm_id)) is not None:
        return render(request, "fleet/_facts.html", facts_of(node.pk))
    return render(request, "fleet/_loose_facts.html", _facts(vm_id))


@login_required
@require_POST
@render_errors
def place(request: HttpRequest) -> HttpResponse:
    """Put `vm` into the tree, under the VM of id `under` or as a root."""
    vm = placing.find(text_value(request.POST, "vm", 255))
    node = placing.place(
        vm,
        under=text_value(request.POST, "under", 255),
        category=request.POST.get("category", ""),
        by=request.user,
    )
    where = f"under {node.parent}" if node.parent else "at top level"
    messages.success(request, f"{node} was added to the tree {where}.")
    return redirect("fleet:one", node.pk)


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
