"""The part of the lieutenants' page about agents that nobody follows."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from lieutenants.unknown_agents import services
from lieutenants.unknown_agents.models import Request, UnknownAgent
from reef_site.common.error_responses import ErrorPage
from reef_site.common.errors import NotFound

MAX_SHOWN = 100

render_errors = ErrorPage("lieutenants:index", "All lieutenants")


def shown() -> list[UnknownAgent]:
    """Return what the page lists."""
    return list(UnknownAgent.objects.all()[:MAX_SHOWN])


@login_required
@require_POST
@render_errors
def act(request: HttpRequest, run: str, verb: str) -> HttpResponse:
    """Take it up, or end it."""
    if verb not in Request.values:
        raise NotFound(f"There is no action '{verb[:40]}' for an agent that nobody follows")
    row = services.ask(run, Request(verb), actor=request.user)
    messages.success(request, f"{row}: asked to {Request(verb).label}.")
    return redirect("lieutenants:index")
