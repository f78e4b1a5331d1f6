"""Responses of the edge itself, and those of web on their way to the client."""

from __future__ import annotations

import json
import logging

import httpx

from reef_site.edge import file_offload, unavailable_page
from reef_site.edge.request_bodies import Scope, Send

logger = logging.getLogger("reef.edge")

Headers = list[tuple[bytes, bytes]]
# Hop-by-hop headers, and those that the edge sets itself.
HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade", b"x-forwarded-for", b"x-forwarded-host"),
        *(b"x-real-ip", b"expect", b"forwarded", b"date", b"server"),
    }
)


def response_headers(answer: httpx.Response) -> Headers:
    """Return web's headers for the client; `raw` keeps the length of an encoded body right."""
    skip = HOP_BY_HOP | {b"reef-wait", file_offload.FILE.encode()}
    return [(k.lower(), v) for k, v in answer.headers.raw if k.lower() not in skip]


def plain_headers(answer: httpx.Response) -> Headers:
    """Return web's headers for a body that was read, and so is no longer compressed."""
    dropped = (b"content-encoding", b"content-length")
    kept = [(key, value) for key, value in response_headers(answer) if key not in dropped]
    return [*kept, (b"content-length", str(len(answer.content)).encode())]


async def stream_back(answer: httpx.Response, send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": answer.status_code,
            "headers": response_headers(answer),
        }
    )
    try:
        async for chunk in answer.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except httpx.HTTPError as error:
        # A partial response must not look complete: hang up.
        logger.warning("web went away in the middle of an answer: %s", error)
        raise
    await send({"type": "http.response.body", "body": b""})


async def send_all(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, status: int, text: str, *more: tuple[bytes, bytes]) -> None:
    body = json.dumps({"error": text}, ensure_ascii=False, separators=(",", ":")).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *more,
    ]
    await send_all(send, status, headers, body)


async def send_unavailable(scope: Scope, send: Send, error: httpx.HTTPError) -> None:
    """Report that web did not respond: to browsers by a page that reloads itself."""
    status, text = _unavailable_reason(error)
    if unavailable_page.is_navigation(scope["headers"]):
        headers, body = unavailable_page.page(
            text, reloads=scope["method"] == "GET" and status != 400
        )
        await send_all(send, status, headers, body)
    else:
        retry = ((b"retry-after", b"2"),) if status == 502 else ()
        await send_error(send, status, text, *retry)


def _unavailable_reason(error: httpx.HTTPError) -> tuple[int, str]:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return 502, "reef's web process is not there; nothing was done. Try again soon."
    if isinstance(error, httpx.LocalProtocolError):
        return 400, "headers: invalid for proxying; the request was not forwarded"
    if isinstance(error, httpx.TimeoutException):
        return 504, "reef's web process did not answer in time; look before you repeat."
    return 502, "reef's web process ended while it answered; look before you repeat."
