"""The fleet's pages: the live tree, one VM, the picture. Each parses, calls one thing, answers."""

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
from reef_site.common.page_values import number_value, text_value
from reef_site.fleet import below, lines, past, picture, registered
from reef_site.fleet.errors import render_errors
from reef_site.fleet.facts import facts_of
from reef_site.fleet.lines import MOST_AT_ONCE, PAGE, Line, Moment
from reef_site.fleet.roof import roof
from registry.models import VM
from vmtree import search
from vmtree.models import Node

MOST_CHANGED = 200


# -- the live tree -------------------------------------------------------------------------------


@login_required
@require_GET
@render_errors
def tree(request: HttpRequest) -> HttpResponse:
    """The tree; `?q=` searches in it, `?under=` begins at one VM."""
    context = tree_context(request)
    status = 400 if context["problem"] else 200
    return render(request, "fleet/tree.html", context, status=status)


@login_required
@require_GET
@render_errors
def fragment(request: HttpRequest) -> HttpResponse:
    """What `tree` shows, for its script."""
    context = tree_context(request)
    status = 400 if context["problem"] else 200
    return render(request, "fleet/_tree.html", context, status=status)


def tree_context(request: HttpRequest) -> dict[str, Any]:
    """The rows that the query asks for; the number of statements does not depend on the fleet."""
    words = _words(request)
    moment = Moment.now()
    base = {"roof": roof(moment), "words": words, "problem": "", "found": None}
    if words:
        try:
            return {**base, **_found(request, words, moment)}
        except BadInput as error:
            return {**base, "problem": str(error).removeprefix("q: "), "page": lines.Page([])}
    return {**base, **_beginning(request, moment)}


def _words(request: HttpRequest) -> str:
    return request.GET.get("q", "").strip()[: search.LONGEST + 1]


def _found(request: HttpRequest, words: str, moment: Moment) -> dict[str, Any]:
    nodes = search.narrow(Node.objects.living(), words)
    found = lines.matches(nodes, moment, after=number_value(request.GET, "after"))
    is_later = "after" in request.GET
    loose = None if is_later else registered.matches(words, moment)
    return {
        "found": found,
        "page": lines.Page(found.lines),
        "is_later": is_later,
        "loose": loose,
    }


def _beginning(request: HttpRequest, moment: Moment) -> dict[str, Any]:
    """The roots, or one VM with what hangs on it."""
    vm_id = text_value(request.GET, "under", 255)
    if not vm_id:
        page = lines.children(below.ROOF, moment)
        return {"page": page, "parent": below.ROOF, "with_loose": True}
    top = get_object_or_404(lines.counted(Node.objects.living()), vm_id=vm_id)
    line = Line(top, place=1, of=1, is_open=True, is_cut=top.parent_id is not None)
    lines.dress([line], moment)
    page = lines.children(top.pk, moment, level=3)
    page = lines.Page([line, *page.lines], page.more, page.last)
    return {"page": page, "parent": top.pk, "top": top}


@login_required
@require_GET
def children(request: HttpRequest, key: int) -> HttpResponse:
    """The next rows under one: `?after=` a node, `?place=` rows are there, `?limit=`, `?level=`."""
    moment = Moment.now()
    page = lines.children(
        key,
        moment,
        after=number_value(request.GET, "after"),
        place=number_value(request.GET, "place"),
        limit=number_value(request.GET, "limit", default=PAGE, most=MOST_AT_ONCE) or PAGE,
        level=number_value(request.GET, "level", default=2, most=100_000),
    )
    context: dict[str, Any] = {"page": page, "parent": key}
    if key == below.ROOF:
        context |= {"with_loose": True, "roof": roof(moment)}
    return render(request, "fleet/_rows.html", context)


@csrf_exempt  # It only reads, and behind some proxies the page is not known as our own.
@login_required
@require_POST
@render_errors
def news(request: HttpRequest) -> HttpResponse:
    """Rows that are shown and may have changed.

    Takes JSON: `shown`, keys of rows (0 is the roof); `changed`, ids of VMs of which news came;
    `also`, keys of rows that are wanted anyway; or `many`, all that are shown. A row that is
    wanted and does not come back is there no longer.
    """
    asked = _asked(request)
    shown = set(asked["shown"])
    wanted = shown
    if not asked["many"]:
        wanted = shown & (below.with_all_above(asked["changed"]) | set(asked["also"]))
    moment = Moment.now()
    found = lines.some(wanted - {below.ROOF}, moment)
    gone = wanted - {below.ROOF} - {line.node.pk for line in found}
    context = {
        "roof": roof(moment) if below.ROOF in shown else None,
        "lines": found,
        "gone": sorted(gone),
    }
    return render(request, "fleet/_news.html", context)


def _asked(request: HttpRequest) -> dict[str, Any]:
    """What the page says it shows. Raises BadInput."""
    try:
        said = orjson.loads(request.body)
        shown, also = said["shown"], said.get("also", [])
        changed, many = said.get("changed", []), bool(said.get("many"))
        keys = [*shown, *also]
        good = all(type(key) is int and 0 <= key < 1 << 62 for key in keys)
        good &= all(type(each) is str for each in changed)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        good = False
    if not good or len(keys) > 2 * MOST_AT_ONCE or len(changed) > MOST_CHANGED:
        raise BadInput(
            f"body: must be an object with at most {MOST_AT_ONCE} keys in shown and"
            f" {MOST_CHANGED} ids in changed"
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
def one(request: HttpRequest, key: int) -> HttpResponse:
    """All that is known of one VM; `?with=` compares its DNA with another one's."""
    return render(request, "fleet/one.html", facts_of(key, _other(request)))


@login_required
@require_GET
@render_errors
def facts(request: HttpRequest, key: int) -> HttpResponse:
    """What stands beside the tree."""
    return render(request, "fleet/_facts.html", facts_of(key, _other(request)))


def _other(request: HttpRequest) -> str:
    return text_value(request.GET, "with", 255)


@login_required
@require_GET
def by_id(request: HttpRequest) -> HttpResponse:
    """The page of the VM whose id is `?vm=`."""
    vm_id = text_value(request.GET, "vm", 255)
    node = Node.objects.filter(vm_id=vm_id).first()
    if node is None:
        get_object_or_404(VM, pk=vm_id)
        return redirect(f"{reverse('fleet:registered')}?{urlencode({'vm': vm_id})}")
    return redirect("fleet:one", node.pk)


# -- from above ----------------------------------------------------------------------------------


@login_required
@require_GET
@render_errors
def look(request: HttpRequest) -> HttpResponse:
    """The tree as a picture; `?under=` of one VM, `?q=` what a search finds with all above."""
    return render(request, "fleet/look.html", _picture(request))


@login_required
@require_GET
@render_errors
def drawing(request: HttpRequest) -> HttpResponse:
    """The picture alone, `?width=` pixels wide."""
    return render(request, "fleet/_picture.html", _picture(request))


def _picture(request: HttpRequest) -> dict[str, Any]:
    vm_id = text_value(request.GET, "under", 255)
    top = get_object_or_404(Node.objects.living(), vm_id=vm_id) if vm_id else None
    width = number_value(request.GET, "width", default=picture.USUAL_WIDTH, most=4000)
    moment, words = Moment.now(), _words(request)
    found = search.narrow(Node.objects.living(), words) if words else None
    drawn = picture.draw(top, moment, max(width, picture.LEAST_WIDTH), found)
    context = {"drawing": drawn, "top": top, "roof": roof(moment), "words": words}
    return {**context, "legend": list(picture.OUTLINES)}


# -- earlier -------------------------------------------------------------------------------------


@login_required
@require_GET
@render_errors
def then(request: HttpRequest) -> HttpResponse:
    """The tree at `?at=` (ISO), or `?second=` seconds behind the first change there is."""
    at = _moment(request)
    was = past.Past(at)
    shown = was.since[: past.MOST_LISTED]
    context = {
        "at": at,
        "slider": past.slider(at),
        "count": was.count(),
        "counts": was.counts(),
        "since": shown,
        "since_more": len(was.since) - len(shown),
        "page": was.children(below.ROOF),
        "parent": below.ROOF,
    }
    return render(request, "fleet/then.html", context)


@login_required
@require_GET
@render_errors
def then_children(request: HttpRequest, key: int) -> HttpResponse:
    """Rows under one at `?at=`, from `?place=` on, as `children` gives those of now."""
    if key != below.ROOF:
        get_object_or_404(Node, pk=key)
    page = past.Past(_moment(request)).children(
        key,
        place=number_value(request.GET, "place"),
        limit=number_value(request.GET, "limit", default=PAGE, most=MOST_AT_ONCE) or PAGE,
        level=number_value(request.GET, "level", default=2, most=100_000),
    )
    return render(request, "fleet/_rows.html", {"page": page, "parent": key})


def _moment(request: HttpRequest) -> datetime:
    if given := request.GET.get("at", ""):
        return clock.parse_timestamp(given, "at")
    return past.moment_of(number_value(request.GET, "second", default=1 << 40, most=1 << 32))
