"""Marking answers as read, from the home page."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.http import require_POST

from lieutenants.models import Lieutenant
from lieutenants.unread import services
from reef_site.common.error_responses import is_script


@login_required
@require_POST
def read(request: HttpRequest, pk: str) -> HttpResponse:
    """Note that the person has read this lieutenant's answers."""
    services.mark_read(request.user, get_object_or_404(Lieutenant, pk=pk))
    return _done(request)


@login_required
@require_POST
def read_all(request: HttpRequest) -> HttpResponse:
    """Note that the person has read the answers of all lieutenants."""
    services.mark_all_read(request.user)
    return _done(request)


def _done(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=204) if is_script(request) else redirect("overview")
