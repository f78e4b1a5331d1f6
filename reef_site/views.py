"""The overview page, which looks at every app."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from lieutenants import figures
from lieutenants.models import Lieutenant, LifeSign
from lieutenants.states import Status
from reef_site.fleet import views as fleet
from reef_site.health import LATE_SECONDS
from vmtree import bells

_MOST_TROUBLE = 8
_MEND = {
    "worker": "Nothing is started or stopped meanwhile. See logs/worker.log and logs/beat.log.",
    "follower": "What agents say is not read meanwhile; nothing is lost. See logs/worker.log.",
    "broker": "Reactions come later meanwhile; nothing is lost. See logs/redis.log.",
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
    return render(request, "overview.html", {**_state(), **tree})


@login_required
@require_GET
def parts(request: HttpRequest) -> HttpResponse:
    """What `overview` fetches again when something changed."""
    return render(request, "_parts.html", _state())


def _state() -> dict[str, Any]:
    parts = [*(_sign(name) for name in LATE_SECONDS), _broker()]
    return {"parts": parts, **(_lieutenants() if "lieutenant" in settings.ORGANS else {})}


def _lieutenants() -> dict[str, Any]:
    counts = Lieutenant.objects.count_by_status()
    failed, doubtful = _failed(), _doubtful()
    trouble_count = counts.get(Status.ERROR, 0) + len(doubtful)
    return {
        "any": bool(counts),
        "tabs": [(word, counts.get(word, 0)) for word in Status.values],
        "trouble": [*failed, *doubtful][:_MOST_TROUBLE],
        "trouble_count": trouble_count,
        "trouble_more": trouble_count > _MOST_TROUBLE,
        "today": figures.fleet_today(),
    }


def _failed() -> list[Lieutenant]:
    """The newest of those in error."""
    failed = Lieutenant.objects.filter(status=Status.ERROR).order_by("-status_since")
    return list(failed[:_MOST_TROUBLE])


def _doubtful() -> list[Lieutenant]:
    """Those that are silent or whose model has trouble or has failed, longest silent first."""
    alive = Lieutenant.objects.filter(status__in=[Status.WORKING, Status.IDLE])
    suspects = alive.filter(~Q(trouble="") | Q(status=Status.WORKING)).order_by("last_activity_at")
    return [each for each in suspects if each.stalled or each.trouble]


def _sign(name: str) -> Part:
    seen = LifeSign.latest(name)
    late = timedelta(seconds=LATE_SECONDS[name])
    good = seen is not None and timezone.now() - seen < late
    return Part(name, good, seen, "never seen")


def _broker() -> Part:
    try:
        bells.client().ping()
    except (redis.RedisError, OSError):
        return Part("broker", good=False, words="does not answer")
    return Part("broker", good=True, words="answers")
