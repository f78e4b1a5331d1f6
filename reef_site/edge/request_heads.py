"""Checks and values of a request's head."""

from __future__ import annotations

from urllib.parse import parse_qs

from reef_site.common.text import parse_number
from reef_site.edge import open_files
from reef_site.edge.request_bodies import ARRIVED, Scope, TryLater, declared, header
from reef_site.edge.responses import Headers

MAX_SMALL_BODY = 16 << 10
# Headers that different readers would understand differently if they came twice.
SINGLE = (b"host", b"authorization")
BLANKS = b" \t"


class BadRequest(Exception):
    """The request cannot be forwarded; the message says why."""


def trimmed(headers: Headers) -> Headers:
    """Strip the blanks around header values, which are not part of them (RFC 9110, 5.5)."""
    return [(key, value.strip(BLANKS)) for key, value in headers]


def check(scope: Scope) -> None:
    """Raise BadRequest for requests that HTTP forbids or that are ambiguous."""
    if not scope["path"].startswith("/"):
        raise BadRequest("path: must start with a slash")
    names = [key for key, _ in scope["headers"]]
    for name in SINGLE:
        if names.count(name) > 1:
            raise BadRequest(f"{name.decode()}: is given more than once")
    if scope.get("http_version") == "1.1" and b"host" not in names:
        raise BadRequest("host: is missing")


def check_open_files(scope: Scope) -> None:
    """Raise TryLater for a stream that would take one of the last open files."""
    if why := open_files.why_no_stream(scope.get(open_files.FILE, 0)):
        # Another connection may get a lower file number.
        raise TryLater(503, why, closes=True)


def cookies(scope: Scope) -> bytes:
    return b"; ".join(value for key, value in scope["headers"] if key == b"cookie")


def wants_stream(scope: Scope) -> bool:
    """Return whether the client takes server-sent events; else it gets a page of JSON."""
    return b"text/event-stream" in header(scope, b"accept").lower()


def last_event(scope: Scope) -> int | None:
    """Return the change to continue after: Last-Event-ID, else `?cursor=`; None for from now on."""
    given = header(scope, b"last-event-id").decode("latin-1")
    if (number := parse_number(given)) is not None:
        return number
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    for name in ("cursor", "after"):
        for given in query.get(name, []):
            if (number := parse_number(given)) is None:
                raise BadRequest(f"{name}: must be a whole number, 0 or more")
            return number
    return None


def small_body_has_arrived(scope: Scope) -> bool:
    """Return whether the whole of a small body arrived together with the headers."""
    return 0 < declared(scope) <= MAX_SMALL_BODY and scope.get(ARRIVED, bool)()
