"""Requests to reef."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import IO, Any, NoReturn
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode

from reef_site.client.errors import Refused, Unreachable
from reef_site.client.server import Server

Json = dict[str, Any]
SECONDS = 30.0
MAX_ERROR = 64 << 10


class NoRedirect(request.HTTPRedirectHandler):
    """Refuses redirects, which could lead the token to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Api:
    """The API of one reef, used with one token."""

    def __init__(self, server: Server) -> None:
        self.server = server
        proxies = [request.ProxyHandler({})] if server.is_here else []
        self._opener = request.build_opener(NoRedirect, *proxies)

    def get(self, path: str, query: Json | None = None, *, seconds: float = SECONDS) -> Any:
        """Return the JSON at a path. Raises Refused, Unreachable."""
        text = encode(query or {})
        return self._json("GET", f"{path}?{text}" if text else path, None, seconds)

    def post(self, path: str, body: object, *, seconds: float = SECONDS) -> Any:
        """Return the JSON that a POST gets. Raises Refused, Unreachable."""
        return self._json("POST", path, json.dumps(body).encode(), seconds)

    def call(self, tool: str, arguments: Json, *, seconds: float = SECONDS) -> Json:
        """Return `text` and `details` of a tool's result. Raises Refused, Unreachable."""
        given = {key: value for key, value in arguments.items() if value is not None}
        result: Json = self.post(f"/tools/{part(tool)}", given, seconds=seconds)
        if result["isError"]:
            raise Refused(result["text"].removeprefix("Error: "))
        return result

    def lines(self, path: str, headers: dict[str, str], *, seconds: float) -> Iterator[str]:
        """Yield the lines of a response as they come. Raises Refused, Unreachable.

        `seconds` is how long a line may take.
        """
        with self._open("GET", path, None, seconds, headers) as response:
            try:
                for line in response:
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
            except (OSError, http.client.HTTPException) as error:
                self._unreachable(error)

    def _json(self, method: str, path: str, body: bytes | None, seconds: float) -> Any:
        with self._open(method, path, body, seconds, {}) as response:
            try:
                return json.loads(response.read())
            except (OSError, http.client.HTTPException) as error:
                self._unreachable(error)
            except ValueError:
                raise Unreachable(f"{self.server.url}{path} does not answer like reef") from None

    @contextlib.contextmanager
    def _open(
        self, method: str, path: str, body: bytes | None, seconds: float, more: dict[str, str]
    ) -> Iterator[IO[bytes]]:
        headers = {"Authorization": f"Bearer {self.server.token}", "User-Agent": "reef", **more}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = self.server.url + path
        asked = request.Request(url, body, headers, method=method)  # noqa: S310
        try:
            response = self._opener.open(asked, timeout=seconds)
        except HTTPError as error:
            with error:
                raise Refused(_sentence(error), error.code) from None
        except (URLError, OSError, http.client.HTTPException) as error:
            self._unreachable(error)
        with response:
            yield response

    def _unreachable(self, error: Exception) -> NoReturn:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            why = "it did not answer in time"
        elif isinstance(reason, socket.gaierror):
            why = "its name is not known"
        else:
            why = str(reason) or type(reason).__name__
        raise Unreachable(f"{self.server.url} cannot be reached: {why}") from None


def encode(query: Json) -> str:
    """Return a query as text, without what is None."""
    given = {key: value for key, value in query.items() if value is not None}
    return urlencode(given, doseq=True)


def part(text: str) -> str:
    """Return a text as one part of a path."""
    return quote(text, safe="")


def _sentence(error: HTTPError) -> str:
    """Return the server's sentence in an error response."""
    try:
        text = error.read(MAX_ERROR).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        text = ""
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code} {error.reason}".strip()
