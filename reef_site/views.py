"""The overview page, which looks at every app, and the way in and out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis
from django.conf import settings
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from lieutenants import figures
from lieutenants.models import Lieutenant, LifeSign
from lieutenants.states import Status
from reef_site import auth
from reef_site.attention.listing import listing
from reef_site.fleet import views as fleet
from reef_site.health import LATE_SECONDS
from vmtree import bells

_MEND = {
    "worker": "Nothing is started or stopped meanwhile. See logs/worker.log and logs/beat.log.",
    "follower": "Agent output is delayed; nothing is lost. See logs/worker.log.",
    "broker": "Updates are delayed; nothing is lost. See logs/redis.log.",
}


@dataclass(frozen=True)
class Part:
    """One process of reef, as the overview shows it."""

    name: str
    good: bool
    seen: datetime | None = None
    words: str = ""

    @property
    def mend(self) -> str:
        """What its absence means, and where to look."""
        return _MEND.get(self.name, "")


@login_required
@require_GET
def overview(request: HttpRequest) -> HttpResponse:
    """How the fleet and reef itself are."""
    tree = fleet.tree_context(request) if "vm-tree" in settings.ORGANS else {}
    return render(request, "overview.html", {**_state(request), **tree})


@login_required
@require_GET
def parts(request: HttpRequest) -> HttpResponse:
    """What `overview` fetches again when something changed."""
    return render(request, "_parts.html", _state(request))


def _state(request: HttpRequest) -> dict[str, Any]:
    return {
        "parts": [*(_sign(name) for name in LATE_SECONDS), _broker()],
        "attention": listing(seen="seen" in request.GET),
        **(_lieutenants() if "lieutenant" in settings.ORGANS else {}),
    }


def _lieutenants() -> dict[str, Any]:
    counts = Lieutenant.objects.count_by_status()
    return {
        "any": bool(counts),
        "tabs": [(word, counts.get(word, 0)) for word in Status.values],
        "today": figures.fleet_today(),
    }


def _sign(name: str) -> Part:
    seen = LifeSign.latest(name)
    late = timedelta(seconds=LATE_SECONDS[name])
    good = seen is not None and timezone.now() - seen < late
    return Part(name, good, seen, "never seen")


def _broker() -> Part:
    try:
        bells.client().ping()
    except (redis.RedisError, OSError):
        return Part("broker", good=False, words="not responding")
    return Part("broker", good=True, words="ok")


# -- in and out --------------------------------------------------------------------------------


class _SignIn(LoginView):
    """By password; the page says how to come in by a link."""

    template_name = "signin.html"
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """With how long a link lives."""
        return {**super().get_context_data(**kwargs), "minutes": settings.SIGNIN_MINUTES}


signin = _SignIn.as_view()


@never_cache
@require_GET
def signin_link(request: HttpRequest, secret: str) -> HttpResponse:
    """Sign the operator in by a link that works once."""
    operator = auth.use_signin_link(secret)
    if operator is None:
        context = {"minutes": settings.SIGNIN_MINUTES}
        return render(request, "signin_used.html", context, status=410)
    login(request, operator, backend="django.contrib.auth.backends.ModelBackend")
    return redirect("overview")


@require_POST
def signout(request: HttpRequest) -> HttpResponse:
    """End the session."""
    logout(request)
    return redirect("signin")
