"""A record of requests and responses, for tests."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass
class LoggedRequest:
    """A request and the status of its response."""

    op: str
    method: str
    path: str
    status: int
    milliseconds: float
    request_id: str
    at: float


@dataclass
class RequestLog:
    """The latest requests, and the responses that violated openapi.yaml."""

    requests: deque[LoggedRequest] = field(default_factory=lambda: deque(maxlen=5000))
    violations: list[str] = field(default_factory=list)

    def clear(self) -> None:
        self.requests.clear()
        self.violations.clear()
