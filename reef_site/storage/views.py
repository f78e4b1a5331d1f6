"""The page Storage, for operators."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from reef_site.common.error_responses import ErrorPage
from reef_site.common.outside_answers import page_answer
from reef_site.storage import measuring
from reef_site.storage.reports import make_report
from vmtree import permissions
from vmtree.permissions import Action

render_errors = ErrorPage("overview", "Home")


@login_required
@require_GET
@render_errors
def index(request: HttpRequest) -> HttpResponse:
    """Show what takes how much room, as it was measured last, and how long it is kept."""
    permissions.check(request.user, Action.COMMAND, None)
    return render(request, "storage/index.html", {"report": make_report()})


@login_required
@require_POST
@render_errors
def measure_now(request: HttpRequest) -> HttpResponse:
    """Measure the database and the data folders."""
    permissions.check(request.user, Action.COMMAND, None)
    return page_answer(request, measuring.measure_now(by=request.user), reverse("space:index"))
