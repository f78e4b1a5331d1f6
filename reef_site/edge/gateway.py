"""WSGI wrapper around Django in the web process: admits only the edge, and reads every body.

The edge authenticates with a key from the data folder, because any program of the same user can
reach the socket. If the edge has withheld a body, because its sender has no valid credentials,
reading it raises an error, so that no view takes the request for one with an empty body.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from typing import IO, Any, NoReturn

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

# Headers between edge and web. The edge removes them from what clients send.
KEY_HEADER, WITHHELD_HEADER = "reef-edge-key", "reef-body-withheld"
# Environ key: whether the edge has withheld the body of this request.
WITHHELD = "reef.body_withheld"
_REFUSAL = b'{"error":"this socket is for reef\'s edge only"}'
_CHUNK = 1 << 16


class BodyWithheld(OSError):
    """The body was not read, because its sender had no valid credentials."""


class WithheldBody:
    """Stand-in for a body that the edge did not read."""

    def read(self, *_: object) -> NoReturn:
        """Raise BodyWithheld."""
        raise BodyWithheld("the body was not read: no good credentials were shown")

    readline = readlines = __iter__ = read


class Gateway:
    """A WSGI application in front of another one."""

    def __init__(self, application: Application, key: str) -> None:
        self._application = application
        self._key = key.encode()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body: IO[bytes] = environ["wsgi.input"]
        shown = str(environ.pop(_variable(KEY_HEADER), ""))
        withheld = environ.pop(_variable(WITHHELD_HEADER), "")
        try:
            if not hmac.compare_digest(shown.encode("utf-8", "replace"), self._key):
                return _refuse(start_response)
            if withheld:
                environ[WITHHELD] = True
                # Not 0, or nothing would try to read it.
                environ["CONTENT_LENGTH"] = "1"
                environ["wsgi.input"] = WithheldBody()
            return self._application(environ, start_response)
        finally:
            # If the body is not read, the server breaks off the next request.
            while body.read(_CHUNK):
                pass


def _variable(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")


def _refuse(start_response: StartResponse) -> Iterable[bytes]:
    headers = [("content-type", "application/json"), ("content-length", str(len(_REFUSAL)))]
    start_response("403 Forbidden", headers)
    return [_REFUSAL]
