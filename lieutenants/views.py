"""Pages of lieutenants. Each view parses, calls one service and renders."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from bootloader.grants import budgets
from lieutenants import services
from lieutenants.actions import ACTIONS, LieutenantAction
from lieutenants.agents import dialect_of
from lieutenants.forms import MODES, AdjustForm, CreateForm
from lieutenants.hosts import liveness
from lieutenants.isolation.homes import Home, home_of
from lieutenants.lists import columns, filters
from lieutenants.membership import vm_id_of
from lieutenants.messages import retrying, rewinding
from lieutenants.messages.images import FORMAT_NAMES, MAX_BYTES, MAX_IMAGES, MEDIA_TYPES
from lieutenants.messages.views import uploaded_images
from lieutenants.models import AgentModels, Entry, Lieutenant, Message
from lieutenants.questions.states import QuestionState
from lieutenants.states import MAX_RESTARTS, MessageState, Mode, Status
from lieutenants.supervision import made_vms, remote_start
from lieutenants.transcript import items, last_turns, outputs, usage_summary
from lieutenants.transcript.views import transcript_context
from lieutenants.unknown_agents import views as unknown_agents
from lieutenants.unread import services as unread
from reef_site.common.error_responses import ErrorPage, is_script
from reef_site.common.errors import BadInput, NotFound, ReefError
from reef_site.common.ids import new_ulid
from reef_site.common.lists.pages import ListPage
from reef_site.common.lists.sorting import Sorting
from reef_site.common.page_values import text_value
from reef_site.common.text import parse_number

_MAX_RECENT = 8
_MAX_QUEUED = 50

render_errors = ErrorPage("lieutenants:index", "All lieutenants")


# -- the list ----------------------------------------------------------------------------------


@login_required
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """List all lieutenants; the list stays live."""
    context = _listing(request)
    status = 400 if context["problem"] else 200
    return render(request, "lieutenants/index.html", context, status=status)


@login_required
@require_GET
def rows(request: HttpRequest) -> HttpResponse:
    """Render the rows of the list, which the page fetches again after changes."""
    return render(request, "lieutenants/_rows.html", _listing(request))


def _listing(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the list. The number of queries does not depend on its length."""
    problem = ""
    try:
        found = filters.find(request.GET)
    except BadInput as error:
        problem, found = str(error).removeprefix("q: "), Lieutenant.objects.none()
    sorting = Sorting.of(request.GET, columns.COLUMNS, columns.DEFAULT_SORT)
    page = ListPage.of(found, sorting, request.GET)
    shown: list[Lieutenant] = page.load(Lieutenant.objects.with_task())
    liveness.annotate_trouble(shown)
    turns, marks = last_turns.last_turns(page.keys), unread.ReadMarks(request.user)
    for row in shown:
        row.last_turn = turns.get(row.pk)
        if row.last_turn:
            row.is_unread = marks.is_unread(row.pk, row.last_turn.ended_at)
    used, counts = columns.usage_of(page.keys), Lieutenant.objects.count_by_status()
    return {
        "page": page.page,
        "range": page.range,
        "headings": page.headings,
        "rows": [(row, *used.get(row.pk, columns.NO_USAGE)) for row in shown],
        "tabs": [(each, counts.get(each, 0)) for each in Status.values],
        "living": sum(counts.values()) - counts.get(Status.DESTROYED, 0),
        "unknown_agents": unknown_agents.listed_agents(),
        "any": bool(counts),
        "status": text_value(request.GET, "status"),
        "query": text_value(request.GET, "q"),
        "problem": problem,
    }


@login_required
@require_http_methods(["GET", "POST"])
def create(request: HttpRequest) -> HttpResponse:
    """Create a lieutenant; errors appear at their fields."""
    form = CreateForm(request.POST or None)
    status = 200
    if request.method == "POST":
        status = 400
        if form.is_valid():
            try:
                lieutenant = services.create(form.wish(), actor=request.user)
            except ReefError as error:
                form.add_service_error(error)
                status = error.status
            else:
                if note := budgets.warning_of(vm_id_of(lieutenant)):
                    messages.warning(request, f"{lieutenant.name}: {note}.")
                return redirect("lieutenants:detail", lieutenant.name)
    form.describe_errors()
    context = {"form": form, "models": AgentModels.objects.offered()}
    return render(request, "lieutenants/create.html", context, status=status)


@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def adjust(request: HttpRequest, name: str) -> HttpResponse:
    """Change model, limits or settings of the agent; errors appear at their fields."""
    lieutenant = services.find(name, missing=f"Lieutenant '{name}' not found")
    status, form = 200, AdjustForm(lieutenant, request.POST or None)
    if request.method == "POST":
        status = 400
        if form.is_valid():
            restart, changes = form.cleaned_data["restart"], form.changes()
            try:
                services.adjust(name, changes, actor=request.user, restart_now=restart)
            except ReefError as error:
                form.add_service_error(error)
                status = error.status
            else:
                messages.success(request, f"{name}: settings saved.")
                return redirect("lieutenants:detail", name)
    form.describe_errors()
    models = AgentModels.objects.offered(lieutenant)
    context = {"form": form, "lieutenant": lieutenant, "models": models}
    return render(request, "lieutenants/adjust.html", context, status=status)


# -- one lieutenant ------------------------------------------------------------------------------


@login_required
@require_GET
@render_errors
def detail(request: HttpRequest, name: str) -> HttpResponse:
    """Show the active lieutenant of this name, else redirect to the newest destroyed one."""
    lieutenant = Lieutenant.objects.active().filter(name=name).first()
    if lieutenant is None:
        destroyed = Lieutenant.objects.filter(name=name).first()
        if destroyed is None:
            raise NotFound(f"Lieutenant '{name}' not found")
        return redirect("lieutenants:by-id", destroyed.pk)
    return _page(request, lieutenant)


@login_required
@require_GET
def by_id(request: HttpRequest, pk: str) -> HttpResponse:
    """Show a destroyed lieutenant by id, since its name may be in use again."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    if lieutenant.status != Status.DESTROYED:
        return redirect("lieutenants:detail", lieutenant.name)
    return _page(request, lieutenant)


def _page(
    request: HttpRequest, lieutenant: Lieutenant, *, status: int = 200, **more: Any
) -> HttpResponse:
    unread.mark_read(request.user, lieutenant)
    context = {
        **transcript_context(request, lieutenant),
        **_facts(lieutenant),
        **_composer(lieutenant),
    }
    return render(request, "lieutenants/detail.html", {**context, **more}, status=status)


def _composer(lieutenant: Lieutenant) -> dict[str, Any]:
    features = dialect_of(lieutenant).features
    kinds = (Entry.Kind.TEXT, Entry.Kind.THINKING, Entry.Kind.TOOL_CALL, Entry.Kind.TOOL_RESULT)
    return {
        "modes": [each for each in MODES if each[0] != Mode.STEER or features.steering],
        "mode": Mode.PROMPT,
        "key": new_ulid(),
        "image_types": ",".join(MEDIA_TYPES) if features.images else "",
        "image_formats": FORMAT_NAMES,
        "max_images": MAX_IMAGES,
        "max_image_bytes": MAX_BYTES,
        "moulds": [items.template_item(lieutenant, kind) for kind in kinds],
    }


def _facts(lieutenant: Lieutenant) -> dict[str, Any]:
    """Return the context of everything beside the transcript."""
    alive = lieutenant.status != Status.DESTROYED
    liveness.annotate_trouble([lieutenant])
    process = lieutenant.processes.first()
    return {
        "lieutenant": lieutenant,
        "process": process,
        "steps": [
            *made_vms.steps_of([lieutenant.pk]).get(lieutenant.pk, []),
            *(process.start_steps() if process else []),
        ],
        "moves": lieutenant.moves.all()[:_MAX_RECENT],
        "questions": lieutenant.questions.open().order_by("created_at", "id"),
        "decided": lieutenant.questions.exclude(state=QuestionState.OPEN)[:_MAX_RECENT],
        **(_queue(lieutenant) if alive else {}),
        "sent": outputs.shortened(lieutenant.messages.order_by("-created_at", "-id")[:_MAX_RECENT]),
        "used": usage_summary.usage_periods(lieutenant),
        "features": dialect_of(lieutenant).features,
        "command": shlex.join(lieutenant.command),
        "session_file": _home_of(lieutenant).session / lieutenant.session_name,
        "most_restarts": MAX_RESTARTS,
        "actions": [each for each in ACTIONS.values() if each.is_available(lieutenant)],
        "to_confirm": [each for each in ACTIONS.values() if each.needs_confirmation(lieutenant)],
    }


def _queue(lieutenant: Lieutenant) -> dict[str, Any]:
    """Return the first waiting messages, with the positions of those that can be changed.

    `unsent` are the newest that were withdrawn or refused.
    """
    waiting = outputs.shortened(lieutenant.messages.pending().in_queue_order()[:_MAX_QUEUED])
    is_queued = any(each.state == MessageState.QUEUED for each in waiting)
    positions = Message.objects.positions(lieutenant.pk) if is_queued else {}
    return {
        "waiting": [(each, positions.get(each.pk)) for each in waiting],
        "movable": len(positions),
        "unsent": outputs.shortened(retrying.offered_again(lieutenant)[:_MAX_RECENT]),
    }


def _home_of(lieutenant: Lieutenant) -> Home:
    """Return the folders of a lieutenant, on the machine that it runs on."""
    local = home_of(lieutenant.pk)
    return local if lieutenant.is_local else Home(Path(remote_start.home_text(lieutenant.pk)))


@login_required
@require_GET
def now(request: HttpRequest, pk: str) -> HttpResponse:
    """Render everything but the transcript: heading, queue, facts."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    # The page fetches this only while it is seen.
    unread.mark_read(request.user, lieutenant)
    return _now(request, lieutenant)


def _now(request: HttpRequest, lieutenant: Lieutenant) -> HttpResponse:
    return render(request, "lieutenants/_now.html", _facts(lieutenant))


# -- actions on a lieutenant ---------------------------------------------------------------------


@login_required
@require_POST
@render_errors
def send(request: HttpRequest, name: str) -> HttpResponse:
    """Send a message; with `start`, also to a lieutenant that is paused or has failed.

    A rejected form is shown again with its text.
    """
    text = request.POST.get("message", "").replace("\r\n", "\n")
    mode, key = request.POST.get("mode") or None, request.POST.get("key", "")
    try:
        images = uploaded_images(request)
        with transaction.atomic():
            if request.POST.get("start"):
                services.start_for_message(name, actor=request.user)
            services.send(name, text, mode=mode, key=key, actor=request.user, images=images)
    except ReefError as error:
        lieutenant = Lieutenant.objects.active().filter(name=name).first()
        if lieutenant is None or is_script(request):
            raise
        return _page(
            request, lieutenant, status=error.status, draft=text, mode=mode, problem=str(error)
        )
    return _done(request, name)


@login_required
@require_POST
@render_errors
def withdraw(request: HttpRequest, name: str, message_id: str) -> HttpResponse:
    """Withdraw a queued message."""
    services.withdraw(name, message_id, actor=request.user)
    return _done(request, name)


@login_required
@require_POST
@render_errors
def send_again(request: HttpRequest, name: str, message_id: str) -> HttpResponse:
    """Send a message that was withdrawn or refused again."""
    retrying.send_again(name, message_id, actor=request.user)
    return _done(request, name)


@login_required
@require_POST
@render_errors
def change_message(request: HttpRequest, name: str, message_id: str) -> HttpResponse:
    """Change the text of a queued message, or its position in the queue."""
    text, position = request.POST.get("text"), request.POST.get("position")
    number = parse_number(position) if position else None
    if position and not number:
        raise BadInput("position: must be a whole number from 1", "position")
    services.change_message(
        name,
        message_id,
        text=None if text is None else text.replace("\r\n", "\n"),
        position=number,
        actor=request.user,
    )
    return _done(request, name)


@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def act(request: HttpRequest, name: str, verb: str) -> HttpResponse:
    """Ask for confirmation (GET) or run the action (POST)."""
    action = ACTIONS.get(verb)
    if action is None:
        raise NotFound(f"There is no action '{verb[:40]}' for a lieutenant")
    if request.method == "GET":
        target = services.find(name, missing=f"Lieutenant '{name}' not found")
        return _confirmation(request, target, action)
    shown_pk = request.POST.get("lieutenant")
    if shown_pk and not Lieutenant.objects.filter(pk=shown_pk, name=name).active().exists():
        raise NotFound(f"This lieutenant '{name}' has been destroyed")
    confirmed = request.POST.get("sure") == "yes"
    try:
        result = action.act(name, request.user, confirmed)
    except ReefError as error:
        lieutenant = Lieutenant.objects.active().filter(name=name).first()
        if (
            lieutenant
            and action.needs_confirmation(lieutenant)
            and not confirmed
            and not is_script(request)
        ):
            return _confirmation(request, lieutenant, action, problem=error)
        raise
    if not is_script(request):
        messages.success(request, result)
    return _done(request, name)


@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def rewind_to(request: HttpRequest, name: str, entry_id: int) -> HttpResponse:
    """Ask whether the agent is to go back to before a message (GET), or request it (POST)."""
    if request.method == "GET":
        target = services.find(name, missing=f"Lieutenant '{name}' not found")
        entry = rewinding.find_target(target, entry_id=entry_id)
        context = {"lieutenant": target, "entry": entry}
        return render(request, "lieutenants/rewind.html", context)
    shown_pk = request.POST.get("lieutenant")
    if not Lieutenant.objects.filter(pk=shown_pk, name=name).active().exists():
        raise NotFound(f"This lieutenant '{name}' has been destroyed")
    rewinding.request_rewind(name, actor=request.user, entry_id=entry_id)
    messages.success(request, f"{name}: going back to before this message.")
    return _done(request, name)


def _confirmation(
    request: HttpRequest,
    lieutenant: Lieutenant,
    action: LieutenantAction,
    problem: ReefError | None = None,
) -> HttpResponse:
    context = {
        "lieutenant": lieutenant,
        "action": action,
        "problem": problem,
        "dropped": action.dropped_messages(lieutenant),
    }
    status = problem.status if problem else 200
    return render(request, "lieutenants/confirm.html", context, status=status)


def _done(request: HttpRequest, name: str) -> HttpResponse:
    """Redirect to the page, or return its fragments and a new idempotency key to a script."""
    if not is_script(request):
        return redirect("lieutenants:detail", name)
    lieutenant = Lieutenant.objects.filter(name=name).order_by("-created_at", "-id")[0]
    response = _now(request, lieutenant)
    response["Reef-Key"] = new_ulid()
    return response


# -- for other pages -----------------------------------------------------------------------------


def panel_html(_request: HttpRequest) -> str:
    """Return a table of all active lieutenants as HTML, for other pages."""
    found = Lieutenant.objects.active().order_by("name")
    return render_to_string(
        "lieutenants/_panel.html", {"lieutenants": found, "list": reverse("lieutenants:index")}
    )
