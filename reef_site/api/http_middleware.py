"""ETags of the API's JSON, and compression of that and of pages.

Both change finished responses only, so not those that the edge completes (`?wait=`) or sends as
files. Where somebody else chooses a part of a text, its compressed length can tell parts of a
secret beside it (BREACH). So of the API, only responses to bearer tokens are compressed, which no
foreign page can request. Pages get random bytes by Django, and the tokens of their forms are masked
anew each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.middleware.http import ConditionalGetMiddleware
from django.utils.cache import patch_vary_headers

from reef_site.audit import routes
from reef_site.common.compression import MIN_COMPRESSED, accepts_gzip, compress
from reef_site.edge.file_offload import FILE

HELD = "reef-wait"
_PAGE = "text/html"


class ApiConditionalGetMiddleware(ConditionalGetMiddleware):
    """Give JSON responses of the API an ETag, and answer a matching `If-None-Match` by 304."""

    def process_response(
        self, request: HttpRequest, response: HttpResponseBase
    ) -> HttpResponseBase:
        """Called by Django after the view."""
        # The audit log has each reading of a secret, which a 304 would not be.
        if not _is_finished_json(response, request) or routes.shows_secret(request, 200):
            return response
        return super().process_response(request, response)


class ApiGzipMiddleware:
    """Compress large JSON responses of the API to callers with a bearer token."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if not _is_finished_json(response, request) or "Authorization" not in request.headers:
            return response
        if response.headers.get("Content-Encoding") or len(response.content) < MIN_COMPRESSED:
            return response
        patch_vary_headers(response, ("Accept-Encoding",))
        if accepts_gzip(request.headers.get("Accept-Encoding", "")):
            _compress(response)
        return response


class PageGzipMiddleware(GZipMiddleware):
    """Compress large pages, but none that shows a secret: these answer a POST, or are audited."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> Any:
        """Called by Django after the view."""
        is_page = response.headers.get("Content-Type", "").startswith(_PAGE)
        if not (is_page and request.method == "GET" and isinstance(response, HttpResponse)):
            return response
        if routes.shows_secret(request, response.status_code):
            return response
        if len(response.content) < MIN_COMPRESSED:
            return response
        return super().process_response(request, response)


def _compress(response: HttpResponse) -> None:
    response.content = compress(response.content)
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Content-Length"] = str(len(response.content))
    etag = response.headers.get("ETag", "")
    if etag.startswith('"'):
        # The same resource in other bytes.
        response.headers["ETag"] = f"W/{etag}"


def _is_finished_json(response: HttpResponseBase, request: HttpRequest) -> TypeGuard[HttpResponse]:
    """Return whether this is a successful JSON response of the API that the edge only passes on."""
    match = request.resolver_match
    return (
        request.method == "GET"
        and response.status_code == 200
        and isinstance(response, HttpResponse)
        and match is not None
        and hasattr(match.func, "cls")
        and response.headers.get("Content-Type", "").startswith("application/json")
        and HELD not in response.headers
        and FILE not in response.headers
    )
