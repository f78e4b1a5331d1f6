"""The overview page, which combines all apps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from lieutenants.models import Lieutenant
from lieutenants.states import Status
from lieutenants.transcript import usage_summary
from reef_site.attention.listing import listing
from reef_site.dashboard import tree_views as fleet
from reef_site.health import components as parts_of_reef
from reef_site.health.components import Component

_REMEDIES = {
    "hosts": "Its lieutenants wait. Start reef there, or take them over on the page Hosts.",
    "worker": "Nothing is started or stopped meanwhile. See logs/worker.log and logs/beat.log.",
    "follower": "Agent output is delayed; nothing is lost. See logs/worker.log.",
    "broker": "Updates are delayed; nothing is lost. See logs/redis.log.",
    "ticks": "Periodic work is delayed. See logs/beat.log and logs/worker.log.",
    "clock": "Times on pages and time limits are wrong until the clock is right.",
    "disk": "Free some space: on a full disk nothing new is stored, and agent output waits.",
    "databaseLog": "End that process, or its transaction, so that the log can be shortened.",
}
_GOOD_STATES = {
    "broker": "answers",
    "hosts": "answer",
    "clock": "right",
    "disk": "has room",
    "databaseLog": "short",
}
# Components whose problems the overview shows at its top, before they do harm.
_WARNINGS = frozenset({"disk", "databaseLog", "clock", "ticks"})


@dataclass(frozen=True)
class ShownComponent:
    """One component, as the overview shows it."""

    part: Component

    @property
    def words(self) -> str:
        """State in words, shown if there is no time at which it was last seen."""
        return self.part.why or _GOOD_STATES.get(self.part.name, "works")

    @property
    def remedy(self) -> str:
        """Effect of its failure, and where to look."""
        return _REMEDIES.get(self.part.name, "")


@login_required
@require_GET
def overview(request: HttpRequest) -> HttpResponse:
    """Show the state of the fleet and of reef itself."""
    tree = fleet.tree_context(request) if "vm-tree" in settings.ORGANS else {}
    return render(request, "overview.html", {**_context(request), **tree})


@login_required
@require_GET
def parts(request: HttpRequest) -> HttpResponse:
    """Render the part of the overview that is refreshed on changes."""
    return render(request, "_parts.html", _context(request))


def _context(request: HttpRequest) -> dict[str, Any]:
    found = [ShownComponent(part) for part in parts_of_reef.look() if part.name != "database"]
    warnings = [each for each in found if not each.part.ok and each.part.name in _WARNINGS]
    return {
        "parts": found,
        "warnings": warnings,
        "attention": listing(seen="seen" in request.GET),
        **(_lieutenants() if "lieutenant" in settings.ORGANS else {}),
    }


def _lieutenants() -> dict[str, Any]:
    counts = Lieutenant.objects.count_by_status()
    return {
        "any": bool(counts),
        "tabs": [(word, counts.get(word, 0)) for word in Status.values],
        "today": usage_summary.fleet_usage_today(),
    }
