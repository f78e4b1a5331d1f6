"""Pages for people. Each parses, calls one thing and answers."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from lieutenants import blocks, figures, outputs, services
from lieutenants.forms import MODES, AdjustForm, CreateForm
from lieutenants.hosts import silence
from lieutenants.isolation.homes import home_of
from lieutenants.models import MOST_RESTARTS, Entry, Lieutenant, Usage
from lieutenants.states import Mode, Status
from lieutenants.unknown_agents import views as unknown_agents
from lieutenants.verbs import VERBS, Verb
from reef_site.common.error_responses import ErrorPage, is_script
from reef_site.common.errors import NotFound, ReefError
from reef_site.common.ids import new_ulid
from reef_site.common.page_values import text_value
from reef_site.common.text import parse_number

PAGE = 100
_MOST_IDS = 200
_RECENT = 8
_MOST_WAITING = 50

render_errors = ErrorPage("lieutenants:index", "All lieutenants")


# -- the list ----------------------------------------------------------------------------------


@login_required
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    """All lieutenants, live."""
    return render(request, "lieutenants/index.html", _listing(request))


@login_required
@require_GET
def rows(request: HttpRequest) -> HttpResponse:
    """What `index` fetches again when something changed."""
    return render(request, "lieutenants/_rows.html", _listing(request))


def _listing(request: HttpRequest) -> dict[str, Any]:
    """The rows that the query asks for; the number of statements is always the same."""
    status, words = text_value(request.GET, "status"), text_value(request.GET, "q")
    counts = Lieutenant.objects.count_by_status()
    found = Lieutenant.objects.listed(status=status, words=words)
    page = Paginator(found, PAGE).get_page(request.GET.get("page"))
    shown = list(page.object_list)
    silence.mark(shown)
    used = Usage.objects.sums_by_lieutenant([row.pk for row in shown])
    living = sum(count for each, count in counts.items() if each != Status.DESTROYED)
    return {
        "page": page,
        "rows": [(row, figures.Figures.of(used.get(row.pk))) for row in shown],
        "tabs": [(each, counts.get(each, 0)) for each in Status.values],
        "living": living,
        "unknown_agents": unknown_agents.shown(),
        "any": bool(counts),
        "status": status,
        "words": words,
        "range": page.paginator.get_elided_page_range(page.number, on_each_side=2, on_ends=1),
    }


@login_required
@require_http_methods(["GET", "POST"])
def create(request: HttpRequest) -> HttpResponse:
    """Make a lieutenant; errors stay beside their fields."""
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
    return render(request, "lieutenants/create.html", {"form": form}, status=status)


@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def adjust(request: HttpRequest, name: str) -> HttpResponse:
    """Change its model or its limits; errors stay beside their fields."""
    lieutenant = services.find(name, missing=f"Lieutenant '{name}' not found")
    status, form = 200, AdjustForm(request.POST or None, initial=vars(lieutenant))
    if request.method == "POST":
        status = 400
        if form.is_valid():
            again, changes = form.cleaned_data["restart"], form.changes()
            try:
                services.adjust(name, changes, actor=str(request.user), restart_now=again)
            except ReefError as error:
                form.add_service_error(error)
                status = error.status
            else:
                messages.success(request, f"{name}: settings saved.")
                return redirect("lieutenants:detail", name)
    form.describe_errors()
    context = {"form": form, "lieutenant": lieutenant}
    return render(request, "lieutenants/adjust.html", context, status=status)


# -- one lieutenant ------------------------------------------------------------------------------


@login_required
@require_GET
@render_errors
def detail(request: HttpRequest, name: str) -> HttpResponse:
    """The living lieutenant of this name, else the newest destroyed one."""
    lieutenant = Lieutenant.objects.living().filter(name=name).first()
    if lieutenant is None:
        buried = Lieutenant.objects.filter(name=name).first()
        if buried is None:
            raise NotFound(f"Lieutenant '{name}' not found")
        return redirect("lieutenants:by-id", buried.pk)
    return _page(request, lieutenant)


@login_required
@require_GET
def by_id(request: HttpRequest, pk: str) -> HttpResponse:
    """One that was destroyed; its name may belong to another by now."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    if lieutenant.status != Status.DESTROYED:
        return redirect("lieutenants:detail", lieutenant.name)
    return _page(request, lieutenant)


def _page(
    request: HttpRequest, lieutenant: Lieutenant, *, status: int = 200, **more: Any
) -> HttpResponse:
    context = {**_transcript(request, lieutenant), **_facts(lieutenant), **_composer(), **more}
    return render(request, "lieutenants/detail.html", context, status=status)


def _transcript(request: HttpRequest, lieutenant: Lieutenant) -> dict[str, Any]:
    before = parse_number(request.GET.get("before", ""))
    found, earlier = blocks.newest(lieutenant, before=before)
    return {
        "lieutenant": lieutenant,
        "blocks": found,
        "earlier": earlier,
        "before": before,
    }


def _composer() -> dict[str, Any]:
    kinds = (Entry.Kind.TEXT, Entry.Kind.THINKING, Entry.Kind.TOOL_CALL, Entry.Kind.TOOL_RESULT)
    return {
        "modes": MODES,
        "mode": Mode.PROMPT,
        "key": new_ulid(),
        "moulds": [blocks.blank(kind) for kind in kinds],
    }


def _facts(lieutenant: Lieutenant) -> dict[str, Any]:
    """What stands beside the transcript."""
    alive = lieutenant.status != Status.DESTROYED
    silence.mark([lieutenant])
    waiting = lieutenant.messages.pending()[:_MOST_WAITING]
    return {
        "lieutenant": lieutenant,
        "process": lieutenant.processes.first(),
        "moves": lieutenant.moves.all()[:_RECENT],
        "waiting": outputs.shortened(waiting) if alive else [],
        "sent": outputs.shortened(lieutenant.messages.order_by("-created_at", "-id")[:_RECENT]),
        "used": figures.spans_of(lieutenant),
        "session_file": home_of(lieutenant.pk).session / lieutenant.session_name,
        "most_restarts": MOST_RESTARTS,
        "verbs": [verb for verb in VERBS.values() if verb.fits(lieutenant)],
        "asking": [verb for verb in VERBS.values() if verb.asks(lieutenant)],
    }


@login_required
@require_GET
def now(request: HttpRequest, pk: str) -> HttpResponse:
    """All of the page that is not transcript: heading, queue, facts."""
    return _now(request, get_object_or_404(Lieutenant, pk=pk))


def _now(request: HttpRequest, lieutenant: Lieutenant) -> HttpResponse:
    return render(request, "lieutenants/_now.html", _facts(lieutenant))


@login_required
@require_GET
def transcript(request: HttpRequest, pk: str) -> HttpResponse:
    """The newest blocks, or with `?before=` those that are older than this entry."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    return render(request, "lieutenants/_transcript.html", _transcript(request, lieutenant))


@login_required
@require_GET
def entries(request: HttpRequest, pk: str) -> HttpResponse:
    """The blocks that hold the entries `?ids=` (numbers, separated by commas)."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    words = request.GET.get("ids", "").split(",")[:_MOST_IDS]
    ids = [number for word in words if (number := parse_number(word)) is not None]
    context = {"lieutenant": lieutenant, "blocks": blocks.some(lieutenant, ids)}
    return render(request, "lieutenants/_blocks.html", context)


@login_required
@require_GET
def text(_request: HttpRequest, pk: str, entry_id: int) -> StreamingHttpResponse:
    """All of one entry's text, as it is, piece by piece: it may be very long."""
    get_object_or_404(Entry.objects.only("pk"), lieutenant=pk, pk=entry_id)
    pieces = outputs.text_of_entry(entry_id).in_pieces()
    return StreamingHttpResponse(pieces, content_type="text/plain; charset=utf-8")


# -- what may be asked of one ----------------------------------------------------------------------


@login_required
@require_POST
@render_errors
def send(request: HttpRequest, name: str) -> HttpResponse:
    """Put a message on its way. A form that is refused comes back with its text."""
    words = request.POST.get("message", "").replace("\r\n", "\n")
    mode, key = request.POST.get("mode") or None, request.POST.get("key", "")
    try:
        services.send(name, words, mode=mode, key=key, actor=str(request.user))
    except ReefError as error:
        lieutenant = Lieutenant.objects.living().filter(name=name).first()
        if lieutenant is None or is_script(request):
            raise
        return _page(
            request, lieutenant, status=error.status, draft=words, mode=mode, problem=str(error)
        )
    return _done(request, name)


@login_required
@require_POST
@render_errors
def withdraw(request: HttpRequest, name: str, message_id: str) -> HttpResponse:
    """Take a message back that waits in the queue."""
    services.withdraw(name, message_id, actor=str(request.user))
    return _done(request, name)


@login_required
@require_http_methods(["GET", "POST"])
@render_errors
def act(request: HttpRequest, name: str, verb: str) -> HttpResponse:
    """GET asks whether it is meant; POST does it."""
    known = VERBS.get(verb)
    if known is None:
        raise NotFound(f"There is no action '{verb[:40]}' for a lieutenant")
    if request.method == "GET":
        return _question(
            request, services.find(name, missing=f"Lieutenant '{name}' not found"), known
        )
    asked_of = request.POST.get("lieutenant")
    if asked_of and not Lieutenant.objects.filter(pk=asked_of, name=name).living().exists():
        raise NotFound(f"This lieutenant '{name}' has been destroyed")
    sure = request.POST.get("sure") == "yes"
    try:
        said = known.act(name, str(request.user), sure)
    except ReefError as error:
        lieutenant = Lieutenant.objects.living().filter(name=name).first()
        if lieutenant and known.asks(lieutenant) and not sure and not is_script(request):
            return _question(request, lieutenant, known, problem=error)
        raise
    if not is_script(request):
        messages.success(request, said)
    return _done(request, name)


def _question(
    request: HttpRequest, lieutenant: Lieutenant, verb: Verb, problem: ReefError | None = None
) -> HttpResponse:
    context = {
        "lieutenant": lieutenant,
        "verb": verb,
        "problem": problem,
        "dropped": verb.dropped_by(lieutenant),
    }
    status = problem.status if problem else 200
    return render(request, "lieutenants/confirm.html", context, status=status)


def _done(request: HttpRequest, name: str) -> HttpResponse:
    """Back to the page, or its fragments for a script, with a fresh key for the next message."""
    if not is_script(request):
        return redirect("lieutenants:detail", name)
    lieutenant = Lieutenant.objects.filter(name=name).order_by("-created_at", "-id")[0]
    response = _now(request, lieutenant)
    response["Reef-Key"] = new_ulid()
    return response


# -- for other pages -----------------------------------------------------------------------------


def panel_html(_request: HttpRequest) -> str:
    """A table of all living lieutenants that another page can include."""
    found = Lieutenant.objects.living().order_by("name")
    return render_to_string(
        "lieutenants/_panel.html", {"lieutenants": found, "list": reverse("lieutenants:index")}
    )
