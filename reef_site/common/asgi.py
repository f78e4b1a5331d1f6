"""Responses of code that answers below Django, straight to the ASGI server."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class JSONResponse:
    """A status and an encoded JSON body; neither is changed later."""

    status: int
    body: bytes
    # Further headers.
    more: tuple[tuple[bytes, bytes], ...] = ()
    _lines: bytes = b""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return all headers; of a 401, the scheme to log in by, too. A 304 has no body."""
        if self.status == 304:
            return list(self.more)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
            *self.more,
        ]
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers

    @property
    def lines(self) -> bytes:
        """Return all headers as lines of HTTP/1.1; made once, since responses are sent again."""
        if not self._lines:
            is_plain = not self.more and self.status not in (304, 401)
            self._lines = _plain_lines(len(self.body)) if is_plain else _lines_of(self.headers)
        return self._lines


def _lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


@functools.lru_cache(maxsize=1024)
def _plain_lines(length: int) -> bytes:
    """Return the lines of a response with no further headers."""
    return _lines_of(JSONResponse(200, bytes(length)).headers)
