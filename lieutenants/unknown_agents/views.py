"""Section of the lieutenants page for agents that nobody follows."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from lieutenants import services as discovery
from lieutenants.unknown_agents import services
from lieutenants.unknown_agents.models import Request, UnknownAgent
from reef_site.common.error_responses import ErrorPage, is_script
from reef_site.common.errors import NotFound

MAX_SHOWN = 100
# Lines about agents that a page shows at a time.
MAX_LINES = 20

render_errors = ErrorPage("lieutenants:index", "All lieutenants")


def listed_agents() -> list[UnknownAgent]:
    """Return the agents to list."""
    return list(UnknownAgent.objects.all()[:MAX_SHOWN])


@login_required
@require_POST
@render_errors
def discover(request: HttpRequest) -> HttpResponse:
    """Look for running agents on all hosts and machines, and show a line for each."""
    lines = discovery.discover(actor=request.user)
    for line in lines[:MAX_LINES]:
        messages.info(request, line)
    if len(lines) > MAX_LINES:
        messages.info(request, f"{len(lines) - MAX_LINES} more; the API has them all.")
    return redirect("lieutenants:index")


@login_required
@require_POST
@render_errors
def act(request: HttpRequest, run: str, verb: str) -> HttpResponse:
    """Request that an agent is taken up or ended."""
    if verb not in Request.values:
        raise NotFound(f"There is no action '{verb[:40]}' for an agent that nobody follows")
    row = services.request_action(run, Request(verb), actor=request.user)
    if is_script(request):
        return HttpResponse(status=204)
    messages.success(request, f"{row}: asked to {Request(verb).label}.")
    return redirect("lieutenants:index")
