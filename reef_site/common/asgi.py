"""Responses of code that answers below Django, straight to the ASGI server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JSONResponse:
    """A status and an encoded JSON body."""

    status: int
    body: bytes

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return content type and length; of a 401, the scheme to log in by, too."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
        ]
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers
