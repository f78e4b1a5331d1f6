"""Pages of the fleet: the live tree, one VM, the map, the tree at an earlier time."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import orjson
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from reef_site.common import clock
from reef_site.common.errors import BadInput
from reef_site.common.lists.sorting import Sorting
from reef_site.common.page_values import number_value, text_value
from reef_site.dashboard import (
    aggregate_health,
    tree_history,
    tree_map,
    tree_rows,
    unfolding,
    unplaced,
)
from reef_site.dashboard.errors import render_errors
from reef_site.dashboard.root_row import root_summary
from reef_site.dashboard.side_panel import vm_details
from reef_site.dashboard.tree_order import order_of
from reef_site.dashboard.tree_rows import MAX_PAGE_SIZE, PAGE, Moment, TreeRow
from registry.models import VM
from vmtree import search
from vmtree.models import LINKS, Node
from vmtree.queries.nodes import keys_of_vms_and_ancestors
from vmtree.queries.recursion import count_descendants

MAX_CHANGED = 200


# -- the live tree -------------------------------------------------------------------------------


@login_required
@require_GET
@render_errors
def tree(request: HttpRequest) -> HttpResponse:
    """Show the tree; `?q=` searches it, `?under=` starts at one VM.

    `?sort=` is the order of siblings, and `?open=` has the keys of open nodes. The script adds
    `?vm=`, the node in the side panel.
    """
    context = {**tree_context(request), "is_list": True}
    status = 400 if context["problem"] else 200
    return render(request, "fleet/tree.html", context, status=status)


@login_required
@require_GET
@render_errors
def fragment(request: HttpRequest) -> HttpResponse:
    """Render the content of `tree` for its script."""
    context = {**tree_context(request), "is_list": True}
    status = 400 if context["problem"] else 200
    return render(request, "fleet/_tree.html", context, status=status)


def tree_context(request: HttpRequest, limit: int = PAGE) -> dict[str, Any]:
    """Return the requested rows; the number of statements does not depend on the fleet's size.

    Of the roots, only the first `limit` are shown.
    """
    words, order, moment = _words(request), order_of(request.GET), Moment.now()
    base = {
        "root": root_summary(moment),
        "words": words,
        "problem": "",
        "found": None,
        "headings": order.headings(request.GET),
    }
    if words:
        try:
            return {**base, **_found(request, words, moment, order)}
        except BadInput as error:
            return {**base, "problem": str(error).removeprefix("q: "), "page": tree_rows.Page([])}
    return {**base, **_top_rows(request, moment, order, limit)}


def _words(request: HttpRequest) -> str:
    return request.GET.get("q", "").strip()[: search.LONGEST + 1]


def _found(request: HttpRequest, words: str, moment: Moment, order: Sorting) -> dict[str, Any]:
    nodes = search.narrow(Node.objects.active(), words)
    after = number_value(request.GET, "after")
    found = tree_rows.matches(nodes, moment, after=after, order=order)
    is_later = "after" in request.GET
    loose = None if is_later else unplaced.matches(words, moment)
    return {
        "found": found,
        "page": tree_rows.Page(found.rows),
        "is_later": is_later,
        "loose": loose,
        # More than an action takes is as much as is known.
        "match_count": found.count + found.is_many,
    }


def _top_rows(request: HttpRequest, moment: Moment, order: Sorting, limit: int) -> dict[str, Any]:
    """Return the roots, or one VM with its children, and the children of open nodes."""
    vm_id, opened = text_value(request.GET, "under", 255), unfolding.open_keys(request.GET)
    if not vm_id:
        page = tree_rows.children(aggregate_health.ROOT, moment, limit=limit, order=order)
        rows = unfolding.unfold(page.rows, opened, moment, order)
        page = tree_rows.Page(rows, page.more, page.last)
        total = root_summary(moment).total
        found = {"page": page, "parent": aggregate_health.ROOT, "match_count": total}
        return {**found, "with_loose": True}
    top = get_object_or_404(tree_rows.counted(Node.objects.active()), vm_id=vm_id)
    row = TreeRow(
        top, position=1, sibling_count=1, is_open=True, is_detached=top.parent_id is not None
    )
    tree_rows.annotate([row], moment)
    page = tree_rows.children(top.pk, moment, level=3, order=order)
    rows = unfolding.unfold(page.rows, opened, moment, order)
    below = count_descendants(LINKS, [top.pk])[top.pk]
    return {
        "page": tree_rows.Page([row, *rows], page.more, page.last),
        "parent": top.pk,
        "top": top,
        "match_count": below,
    }


@login_required
@require_GET
def children(request: HttpRequest, key: int) -> HttpResponse:
    """Render more children: `?after=` (a node), `?place=` (rows so far), `?limit=`, `?level=`."""
    moment = Moment.now()
    page = tree_rows.children(
        key,
        moment,
        after=number_value(request.GET, "after"),
        position=number_value(request.GET, "place"),
        limit=number_value(request.GET, "limit", default=PAGE, most=MAX_PAGE_SIZE) or PAGE,
        level=number_value(request.GET, "level", default=2, most=100_000),
        order=order_of(request.GET),
    )
    context: dict[str, Any] = {"page": page, "parent": key}
    if key == aggregate_health.ROOT:
        context |= {"with_loose": True, "root": root_summary(moment)}
    return render(request, "fleet/_rows.html", context)


@csrf_exempt  # Read-only, and behind some proxies the origin check would fail.
@login_required
@require_POST
@render_errors
def updates(request: HttpRequest) -> HttpResponse:
    """Render the shown rows that may have changed.

    Takes JSON: `shown`, keys of rows (0 is the row above the roots); `changed`, ids of changed VMs;
    `also`, keys of rows to render anyway; or `many`, to render all shown rows. A requested row that
    is missing from the response no longer exists.
    """
    params = _parse_updates(request)
    shown = set(params["shown"])
    wanted = shown
    if not params["many"]:
        wanted = shown & (keys_of_vms_and_ancestors(params["changed"]) | set(params["also"]))
    moment = Moment.now()
    found = tree_rows.rows_for(wanted - {aggregate_health.ROOT}, moment)
    gone = wanted - {aggregate_health.ROOT} - {row.node.pk for row in found}
    context = {
        "root": root_summary(moment) if aggregate_health.ROOT in shown else None,
        "rows": found,
        "gone": sorted(gone),
    }
    return render(request, "fleet/_updates.html", context)


def _parse_updates(request: HttpRequest) -> dict[str, Any]:
    """Parse the body of `news`. Raises BadInput."""
    try:
        payload = orjson.loads(request.body)
        shown, also = payload["shown"], payload.get("also", [])
        changed, many = payload.get("changed", []), bool(payload.get("many"))
        keys = [*shown, *also]
        is_valid = all(type(key) is int and 0 <= key < 1 << 62 for key in keys)
        is_valid &= all(type(each) is str for each in changed)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        is_valid = False
    if not is_valid or len(keys) > 2 * MAX_PAGE_SIZE or len(changed) > MAX_CHANGED:
        raise BadInput(
            f"body: must be an object with at most {MAX_PAGE_SIZE} keys in shown and"
            f" {MAX_CHANGED} ids in changed"
        )
    return {
        "shown": shown,
        "also": also,
        "many": many,
        "changed": [each.replace("\0", "") for each in changed],
    }


# -- one VM --------------------------------------------------------------------------------------


@login_required
@require_GET
@render_errors
def vm_page(request: HttpRequest, key: int) -> HttpResponse:
    """Show one VM; `?with=` compares its composition with another one's."""
    return render(request, "fleet/vm.html", vm_details(key, _other(request)))


@login_required
@require_GET
@render_errors
def vm_panel(request: HttpRequest, key: int) -> HttpResponse:
    """Render the side panel of the tree."""
    return render(request, "fleet/_panel.html", vm_details(key, _other(request)))


def _other(request: HttpRequest) -> str:
    return text_value(request.GET, "with", 255)


@login_required
@require_GET
def by_id(request: HttpRequest) -> HttpResponse:
    """Redirect to the page of the VM with the id `?vm=`."""
    vm_id = text_value(request.GET, "vm", 255)
    node = Node.objects.filter(vm_id=vm_id).first()
    if node is None:
        get_object_or_404(VM, pk=vm_id)
        return redirect(f"{reverse('fleet:registered')}?{urlencode({'vm': vm_id})}")
    return redirect("fleet:one", node.pk)


# -- the map -------------------------------------------------------------------------------------


@login_required
@require_GET
@render_errors
def fleet_map(request: HttpRequest) -> HttpResponse:
    """Show the map of the tree; `?under=` starts at one VM, `?q=` shows matches and ancestors."""
    return render(request, "fleet/map.html", _picture(request))


@login_required
@require_GET
@render_errors
def map_fragment(request: HttpRequest) -> HttpResponse:
    """Render the map alone, `?width=` pixels wide."""
    return render(request, "fleet/_map.html", _picture(request))


def _picture(request: HttpRequest) -> dict[str, Any]:
    vm_id = text_value(request.GET, "under", 255)
    top = get_object_or_404(Node.objects.active(), vm_id=vm_id) if vm_id else None
    width = number_value(request.GET, "width", default=tree_map.DEFAULT_WIDTH, most=4000)
    moment, words = Moment.now(), _words(request)
    found = search.narrow(Node.objects.active(), words) if words else None
    drawing = tree_map.draw(top, moment, max(width, tree_map.MIN_WIDTH), found)
    context = {"drawing": drawing, "top": top, "root": root_summary(moment), "words": words}
    return {**context, "legend": list(tree_map.OUTLINES)}


# -- the tree at an earlier time -----------------------------------------------------------------


@login_required
@require_GET
@render_errors
def history(request: HttpRequest) -> HttpResponse:
    """Show the tree at `?at=` (ISO), or `?second=` seconds after the first revision."""
    at = _moment(request)
    tree_then = tree_history.PastTree(at)
    shown = tree_then.since[: tree_history.MAX_LISTED]
    context = {
        "at": at,
        "slider": tree_history.slider(at),
        "count": tree_then.count(),
        "counts": tree_then.counts(),
        "since": shown,
        "since_more": len(tree_then.since) - len(shown),
        "page": tree_then.children(aggregate_health.ROOT),
        "parent": aggregate_health.ROOT,
    }
    return render(request, "fleet/history.html", context)


@login_required
@require_GET
@render_errors
def history_children(request: HttpRequest, key: int) -> HttpResponse:
    """Render children at `?at=`, from `?place=` on, as `children` does for the current tree."""
    if key != aggregate_health.ROOT:
        get_object_or_404(Node, pk=key)
    page = tree_history.PastTree(_moment(request)).children(
        key,
        position=number_value(request.GET, "place"),
        limit=number_value(request.GET, "limit", default=PAGE, most=MAX_PAGE_SIZE) or PAGE,
        level=number_value(request.GET, "level", default=2, most=100_000),
    )
    return render(request, "fleet/_rows.html", {"page": page, "parent": key})


def _moment(request: HttpRequest) -> datetime:
    if given := request.GET.get("at", ""):
        return clock.parse_timestamp(given, "at")
    return tree_history.moment_of(
        number_value(request.GET, "second", default=1 << 40, most=1 << 32)
    )
