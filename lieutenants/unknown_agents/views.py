"""Section of the lieutenants page for agents that nobody follows."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from lieutenants.exceptions import LieutenantError, NotFound
from lieutenants.unknown_agents import services
from lieutenants.unknown_agents.models import Request, UnknownAgent

MAX_SHOWN = 100


def listed_agents() -> list[UnknownAgent]:
    """Return the agents to list."""
    return list(UnknownAgent.objects.all()[:MAX_SHOWN])


@login_required
@require_POST
def act(request: HttpRequest, run: str, verb: str) -> HttpResponse:
    """Request that an agent is taken up or ended."""
    try:
        if verb not in Request.values:
            raise NotFound(f"There is no action '{verb[:40]}' for an agent that nobody follows")
        row = services.request_action(run, Request(verb), actor=request.user)
    except LieutenantError as error:
        return render(request, "problem.html", {"problem": str(error)}, status=error.status)
    messages.success(request, f"{row}: asked to {Request(verb).label}.")
    return redirect("lieutenants:index")
