"""Helpers of the fleet's views: numbers from the query string, rendered errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render

from reef_site.common.errors import ReefError

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


def spoken(view: View[P]) -> View[P]:
    """Render a ReefError as a page, or as text for scripts, with its HTTP status."""

    @functools.wraps(view)
    def wrapped(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except ReefError as error:
            if request.headers.get("Reef-Script") == "1":
                return HttpResponse(str(error), status=error.status, content_type="text/plain")
            context = {"problem": str(error)}
            return render(request, "fleet/problem.html", context, status=error.status)

    return wrapped


def number(request: HttpRequest, name: str, *, usual: int = 0, most: int = 1 << 62) -> int:
    """Return a number from the query string, at most `most`; `usual` if it is not a number."""
    given = request.GET.get(name, "")
    good = given.isascii() and given.isdigit() and len(given) <= 18
    return min(int(given), most) if good else usual
