"""Responses in the platform's several shapes, and the exceptions rendered as them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

TEXT = "text/plain; charset=utf-8"
ASLEEP = "The requested VM is not currently running (node_id is null); is it sleeping?"


@dataclass
class Response:
    """A response. Without a `kind` there is no Content-Type header."""

    status: int
    body: bytes = b""
    kind: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None


def json_response(facts: object, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(status, json.dumps(facts).encode(), "application/json")


def empty_response(status: int = 200) -> Response:
    """Return a response without body and type, as for most changes."""
    return Response(status)


class ApiError(Exception):
    """The common error, rendered as `{"error", "success": false}`."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error

    def response(self) -> Response:
        return json_response({"error": self.error, "success": False}, self.status)


class BranchError(ApiError):
    """The error of the branch calls; `made` lists the VMs that were created before the failure."""

    def __init__(self, status: int, error: str, made: list[str]) -> None:
        super().__init__(status, error)
        self.made = made

    def response(self) -> Response:
        vms = [{"vm_id": each} for each in self.made]
        return json_response({"vms": vms, "error": self.error}, self.status)


class TextError(Exception):
    """An error of the gateway or the web framework: text, sometimes without a Content-Type."""

    def __init__(self, status: int, text: str, kind: str | None = TEXT, **headers: str) -> None:
        super().__init__(text)
        self.text_response = Response(status, text.encode(), kind, headers)

    def response(self) -> Response:
        return self.text_response


def gateway_timeout() -> Response:
    """Return the proxy's response after its time limit; the operation may still complete."""
    return Response(503, b"503 Service unavailable", TEXT)


def invalid_key(how: str) -> Response:
    """Return the response for an unknown key."""
    if how == "401":
        return Response(401)
    return Response(403, b"403 Forbidden")


def node_error(text: str) -> ApiError:
    """Return the response for any failure below the API, including the caller's mistakes."""
    return ApiError(500, f"http error: {text}")


def invalid_json(text: str) -> TextError:
    """Return the error for a body that is not JSON."""
    return TextError(400, f"Failed to parse the request body as JSON: {text}")


def wrong_type(text: str) -> TextError:
    """Return the error for JSON of the wrong shape."""
    return TextError(
        422, f"Failed to deserialize the JSON body into the target type: {text} at line 1 column 1"
    )


def add_unknown_members(facts: Any) -> Any:
    """Return the data with an undocumented member in each object."""
    if isinstance(facts, list):
        return [add_unknown_members(each) for each in facts]
    if isinstance(facts, dict):
        return {**facts, "announced_nowhere": {"since": "today"}}
    return facts
