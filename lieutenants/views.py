"""Pages of lieutenants. Each view parses, calls one service and renders."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from lieutenants import services
from lieutenants.actions import ACTIONS, LieutenantAction
from lieutenants.agents import dialect_of
from lieutenants.forms import MODES, AdjustForm, CreateForm
from lieutenants.hosts import liveness
from lieutenants.isolation.homes import Home, home_of
from lieutenants.messages.images import FORMAT_NAMES, MAX_BYTES, MAX_IMAGES, MEDIA_TYPES
from lieutenants.messages.views import uploaded_images
from lieutenants.models import AgentModels, Entry, Lieutenant, Usage
from lieutenants.states import MAX_RESTARTS, Mode, Status
from lieutenants.supervision import made_vms, remote_start
from lieutenants.transcript import items, outputs, usage_summary
from lieutenants.transcript.export import ExportFormat, export_response
from lieutenants.unknown_agents import views as unknown_agents
from reef_site.common.error_responses import ErrorPage, is_script
from reef_site.common.errors import BadInput, NotFound, ReefError
from reef_site.common.ids import new_ulid
from reef_site.common.page_values import text_value
from reef_site.common.text import parse_number

PAGE_SIZE = 100
_MAX_IDS = 200
_MAX_RECENT = 8
_MAX_QUEUED = 50

render_errors = ErrorPage("lieutenants:index", "All lieutenants")


# -- the list ----------------------------------------------------------------------------------


@login_required
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """List all lieutenants; the list stays live."""
    return render(request, "lieutenants/index.html", _listing(request))


@login_required
@require_GET
def rows(request: HttpRequest) -> HttpResponse:
    """Render the rows of the list, which the page fetches again after changes."""
    return render(request, "lieutenants/_rows.html", _listing(request))


def _listing(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the list. The number of queries does not depend on its length."""
    status, query = text_value(request.GET, "status"), text_value(request.GET, "q")
    counts = Lieutenant.objects.count_by_status()
    found = Lieutenant.objects.listed(status=status, words=query)
    page = Paginator(found, PAGE_SIZE).get_page(request.GET.get("page"))
    shown = list(page.object_list)
    liveness.annotate_trouble(shown)
    used = Usage.objects.sums_by_lieutenant([row.pk for row in shown])
    living = sum(count for each, count in counts.items() if each != Status.DESTROYED)
    return {
        "page": page,
        "rows": [(row, usage_summary.UsageSummary.of(used.get(row.pk))) for row in shown],
        "tabs": [(each, counts.get(each, 0)) for each in Status.values],
        "living": living,
        "unknown_agents": unknown_agents.listed_agents(),
        "any": bool(counts),
        "status": status,
        "query": query,
        "range": page.paginator.get_elided_page_range(page.number, on_each_side=2, on_ends=1),
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
                lieutenant = services.create(form.wish(), actor=str(request.user))
            except ReefError as error:
                form.add_service_error(error)
                status = error.status
            else:
                return redirect("lieutenants:detail", lieutenant.name)
    form.describe_errors()
    context = {"form": form, "models": AgentModels.objects.offered()}
    return render(request, "lieutenants/create.html", context, status=status)


@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def adjust(request: HttpRequest, name: str) -> HttpResponse:
    """Change model or limits; errors appear at their fields."""
    lieutenant = services.find(name, missing=f"Lieutenant '{name}' not found")
    status, form = 200, AdjustForm(request.POST or None, initial=vars(lieutenant))
    form.leave_out(lieutenant)
    if request.method == "POST":
        status = 400
        if form.is_valid():
            restart, changes = form.cleaned_data["restart"], form.changes()
            try:
                services.adjust(name, changes, actor=str(request.user), restart_now=restart)
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
    context = {**_transcript(request, lieutenant), **_facts(lieutenant), **_composer(lieutenant)}
    return render(request, "lieutenants/detail.html", {**context, **more}, status=status)


def _transcript(request: HttpRequest, lieutenant: Lieutenant) -> dict[str, Any]:
    before = parse_number(request.GET.get("before", ""))
    found, earlier = items.newest_items(lieutenant, before=before)
    return {
        "lieutenant": lieutenant,
        "blocks": found,
        "earlier": earlier,
        "before": before,
    }


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
        "moulds": [items.template_item(kind) for kind in kinds],
    }


def _facts(lieutenant: Lieutenant) -> dict[str, Any]:
    """Return the context of everything beside the transcript."""
    alive = lieutenant.status != Status.DESTROYED
    liveness.annotate_trouble([lieutenant])
    waiting = lieutenant.messages.pending()[:_MAX_QUEUED]
    process = lieutenant.processes.first()
    return {
        "lieutenant": lieutenant,
        "process": process,
        "steps": [
            *made_vms.steps_of([lieutenant.pk]).get(lieutenant.pk, []),
            *(process.start_steps() if process else []),
        ],
        "moves": lieutenant.moves.all()[:_MAX_RECENT],
        "waiting": outputs.shortened(waiting) if alive else [],
        "sent": outputs.shortened(lieutenant.messages.order_by("-created_at", "-id")[:_MAX_RECENT]),
        "used": usage_summary.usage_periods(lieutenant),
        "features": dialect_of(lieutenant).features,
        "command": shlex.join(lieutenant.command),
        "session_file": _home_of(lieutenant).session / lieutenant.session_name,
        "most_restarts": MAX_RESTARTS,
        "actions": [each for each in ACTIONS.values() if each.is_available(lieutenant)],
        "to_confirm": [each for each in ACTIONS.values() if each.needs_confirmation(lieutenant)],
    }


def _home_of(lieutenant: Lieutenant) -> Home:
    """Return the folders of a lieutenant, on the machine that it runs on."""
    local = home_of(lieutenant.pk)
    return local if lieutenant.is_local else Home(Path(remote_start.home_text(lieutenant.pk)))


@login_required
@require_GET
def now(request: HttpRequest, pk: str) -> HttpResponse:
    """Render everything but the transcript: heading, queue, facts."""
    return _now(request, get_object_or_404(Lieutenant, pk=pk))


def _now(request: HttpRequest, lieutenant: Lieutenant) -> HttpResponse:
    return render(request, "lieutenants/_now.html", _facts(lieutenant))


@login_required
@require_GET
def transcript(request: HttpRequest, pk: str) -> HttpResponse:
    """Render the newest transcript items, or those before entry `?before=`."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    return render(request, "lieutenants/_transcript.html", _transcript(request, lieutenant))


@login_required
@require_GET
def entries(request: HttpRequest, pk: str) -> HttpResponse:
    """Render the transcript items with the entries `?ids=` (comma-separated numbers)."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    numbers = request.GET.get("ids", "").split(",")[:_MAX_IDS]
    ids = [number for each in numbers if (number := parse_number(each)) is not None]
    context = {
        "lieutenant": lieutenant,
        "blocks": items.items_of_entries(lieutenant, ids),
    }
    return render(request, "lieutenants/_blocks.html", context)


@login_required
@require_GET
def text(_request: HttpRequest, pk: str, entry_id: int) -> StreamingHttpResponse:
    """Stream the complete text of one entry; it may be very long."""
    get_object_or_404(Entry.objects.only("pk"), lieutenant=pk, pk=entry_id)
    pieces = outputs.text_of_entry(entry_id).in_pieces()
    return StreamingHttpResponse(pieces, content_type="text/plain; charset=utf-8")


@login_required
@require_GET
@render_errors
def export(request: HttpRequest, pk: str) -> StreamingHttpResponse:
    """Download the whole transcript; `?format=` is html, markdown, json or agent."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    kind = text_value(request.GET, "format") or ExportFormat.HTML
    if kind not in list(ExportFormat):
        raise BadInput(f"format: must be one of {', '.join(ExportFormat)}", "format")
    return export_response(lieutenant, ExportFormat(kind))


# -- actions on a lieutenant ---------------------------------------------------------------------


@login_required
@require_POST
@render_errors
def send(request: HttpRequest, name: str) -> HttpResponse:
    """Send a message. A rejected form is shown again with its text."""
    text = request.POST.get("message", "").replace("\r\n", "\n")
    mode, key = request.POST.get("mode") or None, request.POST.get("key", "")
    try:
        images = uploaded_images(request)
        services.send(name, text, mode=mode, key=key, actor=str(request.user), images=images)
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
    services.withdraw(name, message_id, actor=str(request.user))
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
        result = action.act(name, str(request.user), confirmed)
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
