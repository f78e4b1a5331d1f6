"""The home page, which combines all apps: what needs a person, what finished, the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from lieutenants.at_work import list_at_work
from lieutenants.models import Answer, Lieutenant, Message
from lieutenants.states import Outcome, Status
from lieutenants.unread.services import ReadMarks, finished_turns
from lieutenants.usage.reports import fleet_money
from reef_site.attention.listing import listing
from reef_site.common import clock
from reef_site.common.page_values import text_value
from reef_site.dashboard import tree_views as fleet
from reef_site.dashboard.recent_changes import recent_changes
from reef_site.dashboard.root_row import RootSummary, root_summary
from reef_site.dashboard.tree_rows import Moment
from reef_site.health import components as parts_of_reef
from reef_site.health.components import Component
from registry.models import VM

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
# Components whose name in JSON is no name for people.
_LABELS = {"databaseLog": "database log"}
MAX_FINISHED = 8
MAX_WORKING = 8
MAX_ROOTS = 12
# Statuses in the line about the fleet.
LISTED = (Status.WORKING, Status.IDLE, Status.ERROR, Status.STARTING, Status.PAUSED)
# Components whose problems the overview shows at its top, before they do harm.
_WARNINGS = frozenset({"disk", "databaseLog", "clock", "ticks"})


@dataclass(frozen=True)
class ShownComponent:
    """One component, as the overview shows it."""

    part: Component

    @property
    def label(self) -> str:
        """Name for people."""
        return _LABELS.get(self.part.name, self.part.name)

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
    """Show what needs a person, the fleet, and reef itself."""
    tree = fleet.tree_context(request, MAX_ROOTS) if "vm-tree" in settings.ORGANS else {}
    context = {**_context(request, tree.get("root")), **tree}
    return render(request, "overview.html", context)


@login_required
@require_GET
def parts(request: HttpRequest) -> HttpResponse:
    """Render the part of the overview that is refreshed on changes."""
    summary = root_summary(Moment.now()) if "vm-tree" in settings.ORGANS else None
    return render(request, "_parts.html", _context(request, summary))


def _context(request: HttpRequest, summary: RootSummary | None) -> dict[str, Any]:
    found = [ShownComponent(part) for part in parts_of_reef.look() if part.name != "database"]
    marks = ReadMarks(request.user)
    warnings = [each for each in found if not each.part.ok and each.part.name in _WARNINGS]
    return {
        "parts": found,
        "warnings": warnings,
        "attention": listing(
            request.user,
            hidden="seen" in request.GET,
            kind=text_value(request.GET, "kind"),
            group=text_value(request.GET, "group"),
            shows_all="all" in request.GET,
        ),
        "changes": recent_changes(request.user, marks.since),
        **(_vms(summary) if summary else {}),
        **(_lieutenants(request, marks) if "lieutenant" in settings.ORGANS else {}),
    }


def _vms(summary: RootSummary) -> dict[str, Any]:
    """Return the counts of VMs by liveness for the line about the fleet."""
    counts = dict(summary.states)
    live = VM.objects.filter(late_after__gt=clock.now()).count()
    states = [("live", live), ("late", counts.get("late", 0)), ("silent", counts.get("silent", 0))]
    return {"vm_states": states}


def _lieutenants(request: HttpRequest, marks: ReadMarks) -> dict[str, Any]:
    counts = Lieutenant.objects.count_by_status()
    finished, count = finished_turns(marks, MAX_FINISHED)
    return {
        "any": bool(counts),
        "counts": [(word, counts.get(word, 0)) for word in LISTED],
        "money": fleet_money(request.user),
        "finished": finished,
        "finished_count": count,
        "working": list_at_work(MAX_WORKING) if counts.get(Status.WORKING) else [],
        "working_count": counts.get(Status.WORKING, 0),
        "steps": _first_steps(has_lieutenant=bool(counts)),
    }


def _first_steps(*, has_lieutenant: bool) -> list[tuple[str, bool]]:
    """Return the first steps of a new reef, with whether they are done; empty if all are."""
    # Named, since an index finds these, but not all others.
    ended = [each for each in Outcome if each != Outcome.OPEN]
    if Answer.objects.filter(outcome__in=ended).exists():
        return []
    return [("create", has_lieutenant), ("send", Message.objects.exists()), ("read", False)]
