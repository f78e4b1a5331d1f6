"""Handling of requests whose body the edge did not read: they are refused as usual."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase

from reef_site.common.json_format import json_response
from reef_site.edge.gateway import WITHHELD, BodyWithheld

TRY_AGAIN = "your credentials were not good a moment ago; try again"


class WithheldBodyMiddleware:
    """Let anonymous requests be refused as if they had no body; refuse all others with a 503.

    It must come first, before the CSRF middleware reads the body to find its token.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *_: object) -> HttpResponse | None:
        """Refuse a request whose session became valid only after the edge had checked it."""
        if not request.META.get(WITHHELD):
            return None
        if request.user.is_authenticated:
            return try_again()
        # An anonymous request cannot be forged.
        request.csrf_processing_done = True  # type: ignore[attr-defined]
        return None

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Refuse a request whose view tries to read the body."""
        return try_again() if was_withheld(error) else None


def was_withheld(error: BaseException) -> bool:
    """Return whether the error comes from reading a body that the edge did not read."""
    cause: BaseException | None = error
    while isinstance(cause, UnreadablePostError):
        cause = cause.__cause__
    return isinstance(cause, BodyWithheld)


def try_again() -> HttpResponse:
    """Return a 503: the edge found the credentials invalid, and web found them valid."""
    refusal = json_response({"error": TRY_AGAIN}, 503)
    refusal["Retry-After"] = "1"
    return refusal
