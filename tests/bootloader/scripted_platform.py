"""A platform with scripted responses on the loopback: a queue for each path; requests are
recorded.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class ReceivedRequest:
    """A recorded request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass
class ScriptedResponse:
    """A response. `text` is sent unchanged; `cut` closes the connection without a response."""

    status: int = 200
    json: Any = None
    text: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    seconds: float = 0.0


class ScriptedPlatform:
    """A server with queued responses. `on("GET /vms", …)` adds some; the last one is repeated."""

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.queues: dict[
            str, deque[ScriptedResponse | Callable[[ReceivedRequest], ScriptedResponse]]
        ] = defaultdict(deque)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def on(
        self,
        route: str,
        *responses: ScriptedResponse | Callable[[ReceivedRequest], ScriptedResponse],
    ) -> None:
        self.queues[route] = deque(responses)

    def requests_to(self, route: str) -> list[ReceivedRequest]:
        return [request for request in self.requests if f"{request.method} {request.path}" == route]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def _next(self, request: ReceivedRequest) -> ScriptedResponse:
        self.requests.append(request)
        queue = self.queues.get(f"{request.method} {request.path}")
        if not queue:
            return ScriptedResponse(404, {"error": "not found", "success": False})
        response = queue.popleft() if len(queue) > 1 else queue[0]
        return response if isinstance(response, ScriptedResponse) else response(request)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        platform = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def response(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                parts = urlsplit(self.path)
                request = ReceivedRequest(
                    self.command,
                    parts.path.removeprefix("/api/v1"),
                    parse_qs(parts.query),
                    {name.lower(): value for name, value in self.headers.items()},
                    json.loads(raw) if raw else None,
                )
                self.send(platform._next(request), request)

            def send(self, response: ScriptedResponse, request: ReceivedRequest) -> None:
                time.sleep(response.seconds)
                if response.cut:
                    self.close_connection = True
                    return
                self.send_response(response.status)
                body = (response.text or "").encode()
                if response.json is not None:
                    body = json.dumps(response.json).encode()
                    self.send_header("Content-Type", "application/json")
                for name, value in response.headers.items():
                    self.send_header(name, value)
                self.send_header("x-request-id", request.headers.get("x-request-id", "none"))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_DELETE = response  # noqa: N815

        return Handler
