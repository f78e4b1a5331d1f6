"""Responses to requests that make an outside call: the result, or the URL to poll for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from rest_framework.response import Response

from reef_site.common import outside
from reef_site.common.api.fields import Choice, Text
from reef_site.common.api.serializers import ResponseBody
from reef_site.common.models import CallState, OutsideCall

Body = dict[str, Any]
_TELL = {True: messages.success, False: messages.error, None: messages.warning}


class RunningCallResponse(ResponseBody):
    """A call that a worker still makes; ask for its result at `path`."""

    id = Text()
    state = Choice([CallState.RUNNING])
    path = Text()

    example = {"id": "5f3a", "state": "running", "path": "/bootloader/calls/5f3a"}


def api_answer(row: OutsideCall, path: str, body: Callable[[OutsideCall], Body]) -> Response:
    """Answer the request that made the call: 200 with `body`, the call's error, or 202."""
    if row.state == CallState.DONE:
        return Response(body(row))
    if row.state == CallState.FAILED:
        return Response({"error": row.error}, status=row.error_status)
    waiting = {"id": row.pk, "state": "running", "path": path}
    return Response(waiting, status=202, headers={"Location": path})


def api_state(row: OutsideCall, body: Callable[[OutsideCall], Body]) -> Response:
    """Answer a later question how it stands: always 200, with `state` and what came of it."""
    if row.state == CallState.DONE:
        return Response({"id": row.pk, "state": "done", **body(row)})
    if row.state == CallState.FAILED:
        return Response({"id": row.pk, "state": "failed", "error": row.error})
    return Response({"id": row.pk, "state": "running"})


def script_answer(row: OutsideCall) -> HttpResponse:
    """Answer a script of our pages: 204 if it is done or still runs, else the error's text."""
    if row.state == CallState.FAILED:
        return HttpResponse(row.error, status=row.error_status, content_type="text/plain")
    return HttpResponse(status=204)


def page_answer(request: HttpRequest, row: OutsideCall, back: str) -> HttpResponse:
    """Go back with the result as messages, or to the page that shows it when it is there."""
    if row.is_over:
        for good, text in outside.lines(row):
            _TELL[good](request, text)
        return redirect(back)
    return redirect(f"{reverse('outside-call', args=[row.pk])}?{urlencode({'back': back})}")
