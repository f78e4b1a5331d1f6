"""Dismissing and snoozing items of the attention list."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_GET, require_POST

from reef_site.attention.listing import count_rows
from reef_site.attention.models import Seen, Snooze
from reef_site.common import clock
from reef_site.common.attention import attention_kinds
from reef_site.common.error_responses import is_script
from reef_site.common.errors import BadInput
from reef_site.common.json_format import json_response
from reef_site.common.text import parse_number

MAX_SUBJECT = 300
MAX_CAUSE = 100
MAX_HOURS = 24 * 31


@login_required
@require_GET
def count(request: HttpRequest) -> HttpResponse:
    """Return the number of rows that need this person, for the titles of pages."""
    return json_response({"count": count_rows(request.user)})


@login_required
@require_POST
def mark(request: HttpRequest) -> HttpResponse:
    """Dismiss the row of `kind` and `subject` with this `cause`; with `seen=no`, bring it back."""
    kind, subject, cause = _row(request)
    if problem := _problem(kind, subject, cause):
        return json_response({"error": problem}, status=400)
    if request.POST.get("seen") == "no":
        Seen.objects.filter(kind=kind, subject=subject).delete()
    else:
        Seen.mark(kind, subject, cause, str(request.user))
    return _done(request)


@login_required
@require_POST
def snooze(request: HttpRequest) -> HttpResponse:
    """Hide the row from the person who asks for `hours`; 0 brings it back."""
    kind, subject, cause = _row(request)
    hours = parse_number(_field(request, "hours"))
    if problem := _problem(kind, subject, cause):
        return json_response({"error": problem}, status=400)
    if hours is None or hours > MAX_HOURS:
        return json_response({"error": f"hours: must be 0 to {MAX_HOURS}"}, status=400)
    if hours:
        until = timezone.now() + timedelta(hours=hours)
        Snooze.put(request.user, kind, subject, cause, until)
    else:
        Snooze.objects.filter(user=request.user.pk, kind=kind, subject=subject).delete()
    return _done(request)


def _done(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=204) if is_script(request) else redirect("overview")


def _row(request: HttpRequest) -> tuple[str, str, str]:
    return _field(request, "kind"), _field(request, "subject"), _field(request, "cause")


def _field(request: HttpRequest, name: str) -> str:
    return request.POST.get(name, "").replace("\0", "")


def _problem(kind: str, subject: str, cause: str) -> str:
    """Return what is wrong with the fields; empty if nothing is."""
    if kind not in attention_kinds:
        return f"kind: must be one of {', '.join(attention_kinds.keys())}"
    if not subject or len(subject) > MAX_SUBJECT:
        return f"subject: must have 1 to {MAX_SUBJECT} characters"
    if not cause or len(cause) > MAX_CAUSE:
        return f"cause: must have 1 to {MAX_CAUSE} characters"
    if subject.startswith("group:"):
        try:
            if datetime.fromisoformat(cause).tzinfo is None:
                return "cause: of a group must be a time with a zone"
            # Refuses years that databases cannot compare.
            clock.parse_timestamp(cause, "cause")
        except (ValueError, BadInput):
            return "cause: of a group must be a time (ISO 8601)"
    return ""
