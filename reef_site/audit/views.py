"""The audit page."""

from __future__ import annotations

from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from reef_site.audit import refusals
from reef_site.audit.forms import FilterForm
from reef_site.common.paging import take_page
from reef_site.common.text import parse_number
from vmtree import actors

PAGE_SIZE = 100


@login_required
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """Show the records, newest first; `?before=<id>` continues with older ones."""
    if not request.user.is_superuser:
        request.refusal = "rule: only operators see the audit log"  # type: ignore[attr-defined]
        raise PermissionDenied
    refusals.write()
    form = FilterForm(request.GET)
    rows = form.rows()
    before = request.GET.get("before", "")
    if (number := parse_number(before)) is not None:
        rows = rows.filter(pk__lt=number)
    shown, has_older = take_page(rows, PAGE_SIZE)
    actors.remember(request, [row.actor for row in shown])
    filters = {name: request.GET[name] for name in form.fields if request.GET.get(name)}
    older = ""
    if has_older:
        older = urlencode({**filters, "before": shown[-1].pk})
    context = {
        "form": form,
        "records": shown,
        "older": older,
        "newest": urlencode(filters) if before else "",
        "is_first": not before,
    }
    return render(request, "audit/index.html", context)
