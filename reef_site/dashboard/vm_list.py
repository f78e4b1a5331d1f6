"""The list of registered VMs, in the tree or not: sorted, filtered, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.views.decorators.http import require_GET

from bootloader.models import Machine
from lieutenants.lists import columns as lieutenant_columns
from lieutenants.models import Lieutenant
from reef_site.common.errors import BadInput
from reef_site.common.lists.bulk import Person
from reef_site.common.lists.pages import ListPage
from reef_site.common.lists.sorting import Column, Sorting
from reef_site.dashboard.states import state_of
from reef_site.dashboard.tree_rows import Moment, lieutenants_of
from registry import search_terms
from registry.models import VM
from vmtree import search
from vmtree.models import Node

Rows = QuerySet[VM]
DEFAULT_SORT = "state"


@dataclass(frozen=True)
class VMRow:
    """One VM of the list. `node` is the key of its node, if it has a place in the tree."""

    vm: VM
    state: str
    lieutenant: Lieutenant | None
    node: int | None
    provider: str
    cost_today: Decimal


def _with_provider(rows: Rows) -> Rows:
    machines = Machine.objects.active().filter(vm_id=OuterRef("pk"))
    return rows.annotate(provider=Subquery(machines.values("provider")[:1]))


def _with_cost_today(rows: Rows) -> Rows:
    cost = lieutenant_columns.cost_of("pk", lieutenant_columns.slots_of_today())
    return rows.annotate(cost_today=cost)


COLUMNS = (
    Column("name", "Name", ("name",)),
    # The longest overdue first; of those that are not running no heartbeat is expected.
    Column("state", "State", ("late_after", "status"), nullable=True),
    Column("role", "Role", ("role",)),
    Column("parent", "Parent", ("parent_vm_id",), nullable=True),
    Column("machine", "Machine", ("provider",), nullable=True, annotate=_with_provider),
    Column(
        "today",
        "Today",
        ("cost_today",),
        is_descending_first=True,
        annotate=_with_cost_today,
        css="to-right",
    ),
    Column(
        "registered",
        "Registered",
        ("registered_at",),
        is_descending_first=True,
        css="to-right",
    ),
    Column("seen", "Last heartbeat", ("last_seen",), is_descending_first=True, css="to-right"),
)


@login_required
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """List all registered VMs; the list stays live."""
    context = _listing(request)
    status = 400 if context["problem"] else 200
    return render(request, "fleet/vms.html", context, status=status)


@login_required
@require_GET
def rows(request: HttpRequest) -> HttpResponse:
    """Render the rows of the list, which the page fetches again after changes."""
    return render(request, "fleet/_vm_rows.html", _listing(request))


def find(values: QueryDict, _person: Person | None = None) -> Rows:
    """Return the VMs that a query of the list's URL matches. Raises BadInput."""
    words = values.get("q", "").strip()[: search.LONGEST + 1]
    return search_terms.narrow(VM.objects.order_by(), words)


def _listing(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the list. The number of queries does not depend on its length."""
    problem, found = "", VM.objects.none()
    try:
        found = find(request.GET)  # type: ignore[assignment]
    except BadInput as error:
        problem = str(error).removeprefix("q: ")
    page = ListPage.of(found, Sorting.of(request.GET, COLUMNS, DEFAULT_SORT), request.GET)
    return {
        "page": page.page,
        "range": page.range,
        "headings": page.headings,
        "rows": _rows_of(page),
        "query": request.GET.get("q", ""),
        "problem": problem,
    }


def _rows_of(page: ListPage) -> list[VMRow]:
    moment, keys = Moment.now(), page.keys
    lieutenants, used = lieutenants_of(keys), lieutenant_columns.usage_of(keys)
    nodes = dict(Node.objects.active().filter(vm_id__in=keys).values_list("vm_id", "pk"))
    machines = Machine.objects.active().filter(vm_id__in=keys)
    providers = dict(machines.values_list("vm_id", "provider"))
    return [
        VMRow(
            vm,
            state_of(vm, lieutenants.get(vm.pk), moment.at, grace=moment.grace),
            lieutenants.get(vm.pk),
            nodes.get(vm.pk),
            providers.get(vm.pk, ""),
            used.get(vm.pk, lieutenant_columns.NO_USAGE)[1],
        )
        for vm in page.load(VM.objects.all())
    ]
