"""Repeats the reads of API tests on the fast path of the edge, and compares both responses.

`conftest` lets all tests do this: each GET of a `Client` with a bearer token, for which the edge
has a fast route, must have the same status, body and headers there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from django.db import connection
from django.test import Client

from reef_site.common.asgi import JSONResponse
from registry import bearer_tokens, fast_path, fast_reads

# Headers that both paths set, but Django for other reasons as well.
COMPARED = ("ETag", "Content-Encoding", "Content-Type", "WWW-Authenticate")
# What only Django answers: its own failures, and tokens that asked too often.
SKIPPED = (400, 429, 500, 503, 507)
# So often both paths are asked while rows change.
ATTEMPTS = 5
# How often each route was compared in this process.
compared: Counter[str] = Counter()


@contextmanager
def comparing() -> Iterator[None]:
    """Compare the reads of all clients in a `with` block."""
    plain = Client.request

    def request(self: Client, **values: Any) -> Any:
        response = plain(self, **values)
        environ = response.request
        if environ.get("REQUEST_METHOD") == "GET" and response.status_code not in SKIPPED:
            compare_with_newest(
                response,
                lambda django: compare(environ, {**self.defaults, **values}, django),
                lambda: plain(self, **values),
            )
        return response

    with mock.patch.object(Client, "request", request):
        yield


def compare_with_newest(
    response: Any, compare_with: Callable[[Any], None], ask_again: Callable[[], Any]
) -> None:
    """Compare again while Django's response changes: agents work between both of them."""
    for _ in range(ATTEMPTS):
        try:
            compare_with(response)
            break
        except AssertionError:
            newest = ask_again()
            facts = (response.status_code, response.content)
            if (newest.status_code, newest.content) == facts:
                raise
            response = newest


def compare(environ: dict[str, Any], values: dict[str, Any], django: Any) -> None:
    """Send the same request to the fast path, and compare the responses."""
    path = str(environ["PATH_INFO"]).encode("latin-1")
    scope = {"method": "GET", "raw_path": path, "query_string": query_of(environ)}
    route = fast_path.FastPath.route(scope)
    if route is None or connection.needs_rollback:
        return
    headers = {
        name.removeprefix("HTTP_").lower().replace("_", "-").encode(): str(value).encode("latin-1")
        for name, value in values.items()
        if name.startswith("HTTP_")
    }
    headers.setdefault(b"host", b"testserver")
    # Unlike a running reef, a test may have another root token than the one before.
    bearer_tokens.forget_root_token()
    parsed = fast_path.parse(route, headers, b"")
    fast: object = parsed
    if isinstance(parsed, fast_reads.ReadRequest):
        (fast,) = fast_reads.Reader().read([parsed])
    if not isinstance(fast, JSONResponse):
        return
    compared[getattr(route[0], "path", "")] += 1
    if b'"until":' in django.content:
        # The time of the request. It is also in the ETag.
        bodies = without_until(fast.body), without_until(django.content)
        assert (fast.status, bodies[0]) == (django.status_code, bodies[1]), path
        return
    assert (fast.status, fast.body) == (django.status_code, django.content), path
    sent = {name.decode().lower(): value.decode() for name, value in fast.headers}
    if fast.status == 200:
        sent["content-type"] = sent["content-type"].partition(";")[0]
    for name in COMPARED:
        if fast.status != 304 or name == "ETag":
            assert sent.get(name.lower()) == django.headers.get(name), (path, name)


def without_until(body: bytes) -> bytes:
    """Return the body without the time that the next request begins with."""
    return re.sub(rb'"until":"[^"]+"', b'"until":""', body)


def query_of(environ: dict[str, Any]) -> bytes:
    return str(environ.get("QUERY_STRING", "")).encode()
