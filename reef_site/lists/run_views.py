"""Pages of actions on many rows: the plan, its confirmation, and the results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from reef_site.common.errors import BadInput, NotFound, ReefError
from reef_site.common.page_values import number_value, text_value
from reef_site.lists import services
from reef_site.lists.errors import render_errors
from reef_site.lists.models import BulkItem, BulkRun, ItemState, RunState
from vmtree.operations.models import Job

# For more rows than this, the person types how many will be destroyed.
MAX_WITHOUT_COUNT = 10


@dataclass(frozen=True)
class ShownItem:
    """One row of an action, with its page and the job that goes on with it."""

    item: BulkItem
    url: str
    job: Job | None

    @property
    def job_counts(self) -> str:
        """The steps of the job by state, such as `3 done, 1 failed`."""
        counts = self.job.counts() if self.job else {}
        return ", ".join(f"{count} {state}" for state, count in counts.items())


@login_required
@require_POST
@render_errors
def plan(request: HttpRequest, name: str) -> HttpResponse:
    """Plan `action` for the rows `id`, or with `all` for all rows that match `query`."""
    bulk_list = services.find_list(name)
    action = services.find_action(bulk_list, text_value(request.POST, "action"))
    given = request.POST.get("query", "")
    view, query, user = services.stored_view(given), QueryDict(given), _person(request)
    is_all = bool(request.POST.get("all"))
    targets = services.matching(bulk_list, query, user) if is_all else request.POST.getlist("id")
    run = services.plan(bulk_list, action, targets, by=user, query=view)
    return redirect("lists:run", run.pk)


@login_required
@require_GET
@render_errors
def run_page(request: HttpRequest, run_id: str) -> HttpResponse:
    """Show the plan of an action, and its results once it is confirmed."""
    return render(request, "lists/run.html", _context(request, services.find_run(run_id)))


@login_required
@require_GET
@render_errors
def items(request: HttpRequest, run_id: str) -> HttpResponse:
    """Render the rows of an action, which the page fetches again while it goes on."""
    return render(request, "lists/_items.html", _context(request, services.find_run(run_id)))


@login_required
@require_POST
@render_errors
def start(request: HttpRequest, action: str, run_id: str) -> HttpResponse:
    """Confirm a plan. A form with an error is shown again with its text."""
    run = services.find_run(run_id)
    if run.action != action:
        raise NotFound(f"this is not a plan of the action '{action[:40]}'")
    chosen = services.find_action(services.find_list(run.list), run.action)
    text = request.POST.get("text", "").replace("\r\n", "\n")
    try:
        _check_count(request, run, is_needed=chosen.is_destructive)
        services.start(run, chosen, by=_person(request), text=text)
    except BadInput as error:
        context = {**_context(request, run), "problem": str(error), "text": text}
        return render(request, "lists/run.html", context, status=error.status)
    return redirect("lists:run", run.pk)


@login_required
@require_POST
@render_errors
def cancel(request: HttpRequest, run_id: str) -> HttpResponse:
    """Cancel what an action has not done yet."""
    services.cancel(services.find_run(run_id))
    return redirect("lists:run", run_id)


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User), "signed in"
    return request.user


def _check_count(request: HttpRequest, run: BulkRun, *, is_needed: bool) -> None:
    """Raise BadInput unless their number is confirmed, if there are many to destroy."""
    changed = _size(run.items.filter(state=ItemState.WAITING))
    if not is_needed or changed <= MAX_WITHOUT_COUNT:
        return
    if number_value(request.POST, "count") != changed:
        raise BadInput(f"Type {changed}, how many are destroyed, to confirm.", "count")


def _size(rows: Iterable[BulkItem]) -> int:
    """Return how many lieutenants or VMs the rows stand for: one may be a VM with all below it."""
    return sum(row.count or 1 for row in rows)


def _context(request: HttpRequest, run: BulkRun) -> dict[str, Any]:
    rows = list(run.items.order_by("position"))
    jobs = {row.job for row in rows if row.job}
    known = Job.objects.with_counts().in_bulk(jobs) if jobs else {}
    bulk_list, label, action = _names(run)
    shown = [
        ShownItem(row, bulk_list.url_of(row.target) if bulk_list else "", known.get(row.job))
        for row in rows
    ]
    counts = {state.value: 0 for state in ItemState}
    for row in rows:
        counts[row.state] += 1
    list_url = reverse(bulk_list.url_name) if bulk_list else reverse("overview")
    waiting = [row for row in rows if row.state == ItemState.WAITING]
    is_planned = run.state == RunState.PLANNED
    return {
        "run": run,
        "shown": shown,
        "label": label,
        "action": action,
        "noun": bulk_list.noun if bulk_list else "rows",
        "back": f"{list_url}?{run.query}" if run.query else list_url,
        "counts": [(state, count) for state, count in counts.items() if count],
        "changed": len(waiting),
        "size": _size(waiting),
        "refused": counts[ItemState.REFUSED],
        "vms": sum(row.count or 0 for row in rows if row.state != ItemState.REFUSED),
        "is_planned": is_planned,
        "is_mine": run.user_id == request.user.pk,
        "is_live": run.is_open or any(each.job and each.job.is_open for each in shown),
        "needs_count": bool(action and action.is_destructive)
        and _size(waiting) > MAX_WITHOUT_COUNT,
    }


def _names(run: BulkRun) -> tuple[Any, str, Any]:
    """Return the list, the action's label, and the action; None if this reef has them no more."""
    try:
        bulk_list = services.find_list(run.list)
        action = services.find_action(bulk_list, run.action)
    except ReefError:
        return None, run.action, None
    return bulk_list, action.label, action
