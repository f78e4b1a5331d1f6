"""The page Usage: what the fleet costs, by day, lieutenant, model and subtree."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from lieutenants.usage import charts, csv_file, reports
from lieutenants.usage.forms import DownloadForm
from lieutenants.usage.periods import Periods
from reef_site.common.error_responses import ErrorPage
from reef_site.common.errors import NotFound
from vmtree import aliases
from vmtree.models import Node
from vmtree.queries.nodes import keys_of_vms_and_ancestors

MAX_ROWS = 50

render_errors = ErrorPage("usage:index", "Usage of the whole fleet")


@login_required
@require_GET
@render_errors
def index(request: HttpRequest) -> HttpResponse:
    """Show the usage of the fleet, or of the subtree `?below=<VM id>`."""
    context = {**_context(request), "form": DownloadForm(initial={"days": 30})}
    return render(request, "usage/index.html", context)


@login_required
@require_GET
@render_errors
def report(request: HttpRequest) -> HttpResponse:
    """Render the figures, which the page fetches again."""
    return render(request, "usage/_report.html", _context(request))


@login_required
@require_GET
@render_errors
def download(request: HttpRequest) -> StreamingHttpResponse:
    """Return the usage of the last days as CSV."""
    below = _below(request)
    periods = Periods.current()
    days = DownloadForm(request.GET).count
    slots = reports.readable_slots(request.user, below).filter(slot__gte=periods.start_of(days - 1))
    name = f"reef-usage-{timezone.localdate():%Y-%m-%d}.csv"
    return StreamingHttpResponse(
        csv_file.lines(slots, periods.zone),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _context(request: HttpRequest) -> dict[str, Any]:
    below = _below(request)
    found = reports.make_report(request.user, below)
    show_all = "all" in request.GET
    shown = found.lieutenants if show_all else found.lieutenants[:MAX_ROWS]
    return {
        "report": found,
        "lieutenants": shown,
        "more": len(found.lieutenants) - len(shown),
        "charts": [
            charts.days_chart(found.slots, found.periods),
            charts.hours_chart(found.slots, found.periods),
        ],
        "below": below,
        "path": _path_to(below) if below else [],
        "query": urlencode({"below": below.vm_id}) if below else "",
    }


def _below(request: HttpRequest) -> Node | None:
    """Return the node of `?below=`, also a removed one. Raises NotFound."""
    wanted = request.GET.get("below", "").replace("\0", "")
    if not wanted:
        return None
    found = Node.objects.filter(vm_id=aliases.resolve(wanted)).first()
    if found is None:
        raise NotFound(f"'{wanted}' is not in the tree")
    return found


def _path_to(node: Node) -> list[Node]:
    """Return the ancestors of the node, the root first."""
    above = {
        each.pk: each
        for each in Node.objects.filter(pk__in=keys_of_vms_and_ancestors([node.vm_id]))
    }
    path, at = list[Node](), node.parent_id
    while at is not None and at in above:
        path.append(above[at])
        at = above[at].parent_id
    return path[::-1]
