"""Page "Hosts"."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from lieutenants.hosts.adoption import adopt as adopt_host
from lieutenants.hosts.liveness import list_hosts
from reef_site.common.errors import ReefError


@login_required
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """Show all hosts with their lieutenants."""
    return render(request, "lieutenants/hosts.html", {"hosts": list_hosts()})


@login_required
@require_POST
def adopt(request: HttpRequest, name: str) -> HttpResponse:
    """Take over the lieutenants of a host that does not respond."""
    try:
        for line in adopt_host(name, actor=request.user):
            messages.success(request, line)
    except ReefError as error:
        messages.error(request, str(error))
    return redirect("lieutenant-hosts")
