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
    if before.isascii() and before.isdigit() and len(before) <= 18:
        rows = rows.filter(pk__lt=int(before))
    shown = list(rows[: PAGE_SIZE + 1])
    filters = {name: request.GET[name] for name in form.fields if request.GET.get(name)}
    older = ""
    if len(shown) > PAGE_SIZE:
        older = urlencode({**filters, "before": shown[PAGE_SIZE - 1].pk})
    context = {
        "form": form,
        "records": shown[:PAGE_SIZE],
        "older": older,
        "newest": urlencode(filters) if before else "",
        "is_first": not before,
    }
    return render(request, "audit/index.html", context)
