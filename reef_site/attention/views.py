"""Dismissing items of the attention list."""

from __future__ import annotations

from datetime import datetime

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from reef_site.attention.models import Kind, Seen
from reef_site.common.error_responses import is_script
from reef_site.common.json_format import json_response

MAX_SUBJECT = 300
MAX_CAUSE = 100


@login_required
@require_POST
def mark(request: HttpRequest) -> HttpResponse:
    """Dismiss the row of `kind` and `subject` with this `cause`; with `seen=no`, bring it back."""
    kind, subject, cause = (_field(request, name) for name in ("kind", "subject", "cause"))
    if problem := _problem(kind, subject, cause):
        return json_response({"error": problem}, status=400)
    if request.POST.get("seen") == "no":
        Seen.objects.filter(kind=kind, subject=subject).delete()
    else:
        Seen.mark(kind, subject, cause, str(request.user))
    if is_script(request):
        return HttpResponse(status=204)
    return redirect("overview")


def _field(request: HttpRequest, name: str) -> str:
    return request.POST.get(name, "").replace("\0", "")


def _problem(kind: str, subject: str, cause: str) -> str:
    """Return what is wrong with the fields; empty if nothing is."""
    if kind not in Kind.values:
        return f"kind: must be one of {', '.join(Kind.values)}"
    if not subject or len(subject) > MAX_SUBJECT:
        return f"subject: must have 1 to {MAX_SUBJECT} characters"
    if not cause or len(cause) > MAX_CAUSE:
        return f"cause: must have 1 to {MAX_CAUSE} characters"
    if subject.startswith("group:"):
        try:
            if datetime.fromisoformat(cause).tzinfo is None:
                return "cause: of a group must be a time with a zone"
        except ValueError:
            return "cause: of a group must be a time (ISO 8601)"
    return ""
