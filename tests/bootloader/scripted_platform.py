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
class Came:
    """A recorded request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass
class Answer:
    """`text` goes out as it is; `cut` closes the connection without an answer."""

    status: int = 200
    json: Any = None
    text: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    seconds: float = 0.0


class AnsweringServer:
    """`on("GET /vms", Answer…)` queues answers; the last one stays."""

    def __init__(self) -> None:
        self.came: list[Came] = []
        self.queues: dict[str, deque[Answer | Callable[[Came], Answer]]] = defaultdict(deque)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def on(self, what: str, *answers: Answer | Callable[[Came], Answer]) -> None:
        self.queues[what] = deque(answers)

    def seen(self, what: str) -> list[Came]:
        return [came for came in self.came if f"{came.method} {came.path}" == what]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def _next(self, came: Came) -> Answer:
        self.came.append(came)
        queue = self.queues.get(f"{came.method} {came.path}")
        if not queue:
            return Answer(404, {"error": "not found", "success": False})
        answer = queue.popleft() if len(queue) > 1 else queue[0]
        return answer if isinstance(answer, Answer) else answer(came)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        platform = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                parts = urlsplit(self.path)
                came = Came(
                    self.command,
                    parts.path.removeprefix("/api/v1"),
                    parse_qs(parts.query),
                    {name.lower(): value for name, value in self.headers.items()},
                    json.loads(raw) if raw else None,
                )
                self.send(platform._next(came), came)

            def send(self, answer: Answer, came: Came) -> None:
                time.sleep(answer.seconds)
                if answer.cut:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                body = (answer.text or "").encode()
                if answer.json is not None:
                    body = json.dumps(answer.json).encode()
                    self.send_header("Content-Type", "application/json")
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("x-request-id", came.headers.get("x-request-id", "none"))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

        return Handler
