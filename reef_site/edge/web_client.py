"""Calls of the web process over its Unix socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from reef_site.edge import file_offload, gateway, open_files
from reef_site.edge.request_bodies import Body, Scope, header
from reef_site.edge.responses import HOP_BY_HOP, Headers

WEB_TIMEOUT_SECONDS = 90.0
# Headers between edge and web, which no client may set.
INTERNAL = frozenset(
    name.encode() for name in (file_offload.TAKES, gateway.KEY_HEADER, gateway.WITHHELD_HEADER)
)
# Headers about the client's own request, which do not fit what the edge asks on its behalf.
OF_CLIENT = frozenset(
    {
        *(b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"),
        *(b"if-range", b"range", b"content-type", b"content-encoding"),
    }
)


class WebClient:
    """The web process as its edge sees it."""

    def __init__(self, http: httpx.AsyncClient, key: str = "") -> None:
        self._http = http
        self._key = key.encode()
        # Before it does, it starts, together with the edge.
        self.has_answered = False

    @classmethod
    def over(cls, socket: str, key: str) -> WebClient:
        """Return a client for the web process at this Unix socket."""
        transport = httpx.AsyncHTTPTransport(
            uds=socket,
            limits=httpx.Limits(
                max_connections=min(256, (open_files.limit() or 4096) // 8),
                max_keepalive_connections=32,
            ),
        )
        http = httpx.AsyncClient(
            transport=transport,
            base_url="http://web",
            timeout=httpx.Timeout(WEB_TIMEOUT_SECONDS, connect=3.0, pool=30.0),
            follow_redirects=False,
        )
        return cls(http, key)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def call(
        self,
        scope: Scope,
        body: Body | None,
        path: bytes | None = None,
        *,
        payload: bytes | None = None,
        withheld: bool = False,
    ) -> httpx.Response:
        """Return web's response with its body unread; retry where that is harmless.

        With `path`, ask web on the caller's behalf: by GET, or by POST with a payload. `withheld`
        tells web that there is a body that the edge has not read.
        """
        own = path is not None
        query = b"" if own else scope["query_string"]
        raw = (path or scope.get("raw_path") or scope["path"].encode()) or b"/"
        url = httpx.URL("http://web").copy_with(raw_path=raw + (b"?" + query if query else b""))
        method = ("GET" if payload is None else "POST") if own else scope["method"]
        body = body if body and body.size else None
        size = len(payload or b"") or (body.size if body else 0)
        headers = request_headers(scope, size)
        if own:
            headers = [(key, value) for key, value in headers if key not in OF_CLIENT]
            headers.append((b"content-type", b"application/json"))
        headers.append((gateway.KEY_HEADER.encode(), self._key))
        if withheld:
            headers.append((gateway.WITHHELD_HEADER.encode(), b"yes"))
        for attempt in range(6):
            request = httpx.Request(
                method,
                url,
                headers=headers,
                content=body.chunks() if body else payload,
                extensions={"timeout": self._http.timeout.as_dict()},
            )
            try:
                response = await self._http.send(request, stream=True)
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                # If nothing was sent, or the method is safe, a retry cannot repeat an effect.
                is_safe = isinstance(error, httpx.ConnectError) or method in {"GET", "HEAD"}
                if attempt == 5 or not is_safe:
                    raise
                await asyncio.sleep(0.1 * (attempt + 1))
            else:
                self.has_answered = True
                return response
        raise AssertionError("not reached")

    async def ask(
        self, scope: Scope, path: str, arguments: dict[str, Any] | None
    ) -> httpx.Response:
        """Return what the same caller gets from web at this path. Raises httpx.HTTPError."""
        payload = None if arguments is None else json.dumps(arguments).encode()
        answer = await self.call(scope, None, path.encode(), payload=payload)
        try:
            await answer.aread()
        finally:
            await answer.aclose()
        return answer


def request_headers(scope: Scope, size: int) -> Headers:
    """Return the headers for web: the client's, its address, and the length of its body."""
    # A name with an underscore could pose as another header in WSGI.
    drop = HOP_BY_HOP | INTERNAL | {b"content-length"}
    kept = [(key, value) for key, value in scope["headers"] if key not in drop and b"_" not in key]
    if size or scope["method"] in {"POST", "PUT", "PATCH"}:
        kept.append((b"content-length", str(size).encode()))
    if not header(scope, b"host"):
        kept.append((b"host", b"localhost"))
    kept.append((file_offload.TAKES.encode(), b"yes"))
    client = scope.get("client") or ("", 0)
    kept.append((b"x-forwarded-for", str(client[0]).encode()))
    if header(scope, b"x-forwarded-proto") not in (b"http", b"https"):
        kept.append((b"x-forwarded-proto", scope.get("scheme", "http").encode()))
    return kept
