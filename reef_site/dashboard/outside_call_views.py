"""The page of an outside call: first what it waits for, then its result."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from reef_site.common import outside
from vmtree import permissions


@never_cache
@login_required
@require_GET
def outside_call(request: HttpRequest, call_id: str) -> HttpResponse:
    """Show the call; the page polls each second until it is over."""
    if permissions.is_read_only_account(request.user):
        raise PermissionDenied
    row = outside.find(call_id)
    if row is None:
        raise Http404
    back = request.GET.get("back", "")
    if not url_has_allowed_host_and_scheme(back, allowed_hosts={request.get_host()}):
        back = "/"
    context = {"row": row, "lines": outside.lines(row) if row.is_over else [], "back": back}
    template = "_outside_call.html" if request.headers.get("HX-Request") else "outside_call.html"
    return render(request, template, context)
