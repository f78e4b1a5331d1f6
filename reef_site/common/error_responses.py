"""Responses to a ReefError: JSON for the API, a page, or plain text for a script."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from rest_framework.response import Response

from reef_site.common.errors import Forbidden, ReefError

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


def api_error(error: ReefError) -> Response:
    """Return `{"error": "<text>"}` with the error's status, and Retry-After if it has one."""
    headers = {"Retry-After": str(error.retry_seconds)} if error.retry_seconds else None
    return Response({"error": str(error)}, status=error.status, headers=headers)


def is_script(request: HttpRequest) -> bool:
    """Return whether a script of our pages sent this, which wants fragments and plain text."""
    return request.headers.get("Reef-Script") == "1"


@dataclass(frozen=True)
class ErrorPage:
    """Decorator for views: answers their ReefErrors with the error's text and status.

    The page has a link to the view `home`. A script gets the text alone.
    """

    home: str
    label: str

    def __call__(self, view: View[P]) -> View[P]:
        @functools.wraps(view)
        def wrapped(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            try:
                return view(request, *args, **kwargs)
            except ReefError as error:
                return self.render(request, error)

        return wrapped

    def render(self, request: HttpRequest, error: ReefError) -> HttpResponse:
        if isinstance(error, Forbidden):
            # The audit log reads it.
            request.forbidden = error  # type: ignore[attr-defined]
        if is_script(request):
            return HttpResponse(str(error), status=error.status, content_type="text/plain")
        context = {"problem": str(error), "home": self.home, "label": self.label}
        return render(request, "problem.html", context, status=error.status)
