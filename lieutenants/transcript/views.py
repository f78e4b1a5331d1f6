"""Transcripts on pages: their windows, long texts, search and export."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from lieutenants.agents import dialect_of
from lieutenants.models import Entry, Lieutenant
from lieutenants.states import Status
from lieutenants.transcript import finding, items, markdown, outputs
from lieutenants.transcript.export import ExportFormat, export_response
from lieutenants.transcript.outputs import Output
from reef_site.common.error_responses import ErrorPage
from reef_site.common.errors import BadInput
from reef_site.common.page_values import text_value
from reef_site.common.text import parse_number

_MAX_IDS = 200
# Characters of a long text that are shown at once.
PIECE = 50_000
# Answers; their texts may be very long.
_TEXTS = Entry.objects.filter(kind=Entry.Kind.TEXT).defer("text")

render_errors = ErrorPage("lieutenants:index", "All lieutenants")


def transcript_context(request: HttpRequest, lieutenant: Lieutenant) -> dict[str, Any]:
    """Return the context of the window that the query asks for.

    `?before=`, `?after=` and `?at=` are ids of entries; by default it is the newest window.
    `?find=` adds what is found, for browsers without scripts.
    """
    places = {"before": items.window_before, "after": items.window_after, "at": items.window_around}
    window, at = None, None
    for name, window_of in places.items():
        number = parse_number(request.GET.get(name, ""))
        if number is not None and window is None:
            window = window_of(lieutenant, number)
            at = number if name == "at" else None
    window = window or items.newest_window(lieutenant)
    words = text_value(request.GET, "find")
    found = _found(lieutenant, finding.find(lieutenant, words)) if words.strip() else {}
    return {
        "lieutenant": lieutenant,
        "blocks": window.items,
        "earlier": window.earlier,
        "later": window.later,
        "at": at,
        **_of_blocks(lieutenant),
        **found,
    }


def _of_blocks(lieutenant: Lieutenant) -> dict[str, Any]:
    """Return the context that blocks need beside themselves."""
    can_rewind = dialect_of(lieutenant).features.rewind
    return {"can_rewind": can_rewind and lieutenant.status != Status.DESTROYED}


def _found(lieutenant: Lieutenant, matches: finding.Matches) -> dict[str, Any]:
    return {"lieutenant": lieutenant, "matches": matches, "excerpts": matches.excerpts()}


@login_required
@require_GET
def transcript(request: HttpRequest, pk: str) -> HttpResponse:
    """Render the newest transcript items, or a window elsewhere."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    context = transcript_context(request, lieutenant)
    return render(request, "lieutenants/_transcript.html", context)


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
        **_of_blocks(lieutenant),
    }
    return render(request, "lieutenants/_blocks.html", context)


@login_required
@require_GET
def text(_request: HttpRequest, pk: str, entry_id: int) -> StreamingHttpResponse:
    """Stream the complete text of one entry; it may be very long."""
    pieces = _text_of(pk, entry_id).in_pieces()
    return StreamingHttpResponse(pieces, content_type="text/plain; charset=utf-8")


@login_required
@require_GET
def piece(request: HttpRequest, pk: str, entry_id: int) -> HttpResponse:
    """Render a piece of a long text, from character `?from=` on."""
    output = _text_of(pk, entry_id)
    last = max(0, (output.length - 1) // PIECE * PIECE)
    begin = min(parse_number(request.GET.get("from", "")) or 0, last)
    context = {
        "lieutenant_id": pk,
        "entry_id": entry_id,
        "text": output.slice(begin, PIECE),
        "first": begin + 1,
        "end": min(begin + PIECE, output.length),
        "length": output.length,
        "previous": max(0, begin - PIECE) if begin else None,
        "next": begin + PIECE if begin + PIECE < output.length else None,
        "last": last,
    }
    return render(request, "lieutenants/_piece.html", context)


@login_required
@require_GET
def text_part(request: HttpRequest, pk: str, entry_id: int) -> HttpResponse:
    """Render the part of a long answer behind its first `?after=` characters.

    `?fence=` opens the code block in which it begins.
    """
    entry = get_object_or_404(_TEXTS, lieutenant=pk, pk=entry_id)
    after = parse_number(request.GET.get("after", "0")) or 0
    fence = request.GET.get("fence", "")
    part, rest = items.text_part(entry, after, fence if markdown.is_fence(fence) else "")
    context = {"entry": entry, "part": part, "after": after + part.length, "rest": rest}
    return render(request, "lieutenants/_text_part.html", context)


def _text_of(pk: str, entry_id: int) -> Output:
    get_object_or_404(Entry.objects.only("pk"), lieutenant=pk, pk=entry_id)
    return outputs.text_of_entry(entry_id)


@login_required
@require_GET
@render_errors
def find(request: HttpRequest, pk: str) -> HttpResponse:
    """Render what is found of the words `?q=` below entry `?before=`, newest first."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    before = parse_number(request.GET.get("before", ""))
    matches = finding.find(lieutenant, text_value(request.GET, "q"), before=before)
    return render(request, "lieutenants/_found.html", _found(lieutenant, matches))


@login_required
@require_GET
def messages(request: HttpRequest, pk: str) -> HttpResponse:
    """Render the list of the transcript's messages, to jump to one."""
    lieutenant = get_object_or_404(Lieutenant, pk=pk)
    found, older = finding.messages(lieutenant, before=parse_number(request.GET.get("before", "")))
    context = {"lieutenant": lieutenant, "entries": found, "older": older}
    return render(request, "lieutenants/_messages.html", context)


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
