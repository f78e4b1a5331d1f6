"""Responses in the platform's several shapes, and the exceptions rendered as them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

TEXT = "text/plain; charset=utf-8"
ASLEEP = "The requested VM is not currently running (node_id is null); is it sleeping?"


@dataclass
class Answer:
    """A response. Without a `kind` there is no Content-Type header."""

    status: int
    body: bytes = b""
    kind: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None


def json_answer(facts: object, status: int = 200) -> Answer:
    """JSON with its type."""
    return Answer(status, json.dumps(facts).encode(), "application/json")


def empty(status: int = 200) -> Answer:
    """No body and no type, as the platform answers to most changes."""
    return Answer(status)


class Refusal(Exception):
    """The usual error, `{"error", "success": false}`."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error

    def answer(self) -> Answer:
        return json_answer({"error": self.error, "success": False}, self.status)


class BranchRefusal(Refusal):
    """The branch family's error: what was made before it went wrong stays and is named."""

    def __init__(self, status: int, error: str, made: list[str]) -> None:
        super().__init__(status, error)
        self.made = made

    def answer(self) -> Answer:
        vms = [{"vm_id": each} for each in self.made]
        return json_answer({"vms": vms, "error": self.error}, self.status)


class TextRefusal(Exception):
    """An error of the gateway or the web framework: text, some without a Content-Type."""

    def __init__(self, status: int, text: str, kind: str | None = TEXT, **headers: str) -> None:
        super().__init__(text)
        self.found = Answer(status, text.encode(), kind, headers)

    def answer(self) -> Answer:
        return self.found


def gateway_timeout() -> Answer:
    """Return the proxy's response after its time limit; the operation may still complete."""
    return Answer(503, b"503 Service unavailable", TEXT)


def bad_key(how: str) -> Answer:
    """Return the response for an unknown key."""
    if how == "401":
        return Answer(401)
    return Answer(403, b"403 Forbidden")


def node_error(text: str) -> Refusal:
    """Return the response for any failure below the API, including the caller's mistakes."""
    return Refusal(500, f"http error: {text}")


def bad_body(text: str) -> TextRefusal:
    """A body that is no JSON."""
    return TextRefusal(400, f"Failed to parse the request body as JSON: {text}")


def wrong_type(text: str) -> TextRefusal:
    """JSON that does not fit."""
    return TextRefusal(
        422, f"Failed to deserialize the JSON body into the target type: {text} at line 1 column 1"
    )


def surprise(facts: Any) -> Any:
    """The same with members that nobody announced."""
    if isinstance(facts, list):
        return [surprise(each) for each in facts]
    if isinstance(facts, dict):
        return {**facts, "announced_nowhere": {"since": "today"}}
    return facts
