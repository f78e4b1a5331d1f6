"""Requests whose body the edge did not read: they get a refusal in the usual words, and no more."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase

from reef_site.common.json_format import json_answer
from reef_site.gateway import WITHHELD, BodyWithheld

TRY_AGAIN = "your credentials were not good a moment ago; try again"


class WithheldBodyMiddleware:
    """Has anonymous requests refused as if they had no body; lets nobody else through.

    It must come first, before the CSRF middleware looks for its token in the body.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *_: object) -> HttpResponse | None:
        """Refuse a request whose session became good only after the edge had looked."""
        if not request.META.get(WITHHELD):
            return None
        if request.user.is_authenticated:
            return try_again()
        # Nothing can be forged in the name of nobody.
        request.csrf_processing_done = True  # type: ignore[attr-defined]
        return None

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Refuse a request whose view wants to read the body all the same."""
        return try_again() if was_withheld(error) else None


def was_withheld(error: BaseException) -> bool:
    """Whether this error comes from reading a body that the edge did not read."""
    cause: BaseException | None = error
    while isinstance(cause, UnreadablePostError):
        cause = cause.__cause__
    return isinstance(cause, BodyWithheld)


def try_again() -> HttpResponse:
    """Return a 503: the edge found the credentials invalid, and web found them valid."""
    refusal = json_answer({"error": TRY_AGAIN}, 503)
    refusal["Retry-After"] = "1"
    return refusal
