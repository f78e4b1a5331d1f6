"""Errors of the fleet agent."""

from __future__ import annotations

from typing import Any, Dict

VERSION = "1"
Json = Dict[str, Any]


class AgentError(Exception):
    """A failure, described in a sentence for the operator."""


class RootUnavailable(AgentError):
    """The root is unreachable or overloaded; `seconds` is its Retry-After, if given."""

    def __init__(self, text: str, seconds: float = 0.0) -> None:
        super().__init__(text)
        self.seconds = seconds


class RootRefused(AgentError):
    """The root rejected the request."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class StopRequested(BaseException):
    """Raised by the signal handler to end the current work."""
