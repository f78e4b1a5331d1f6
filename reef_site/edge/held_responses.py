"""Responses that the edge holds (`wait`), completed with the awaited state."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import quote

Json = dict[str, Any]

WAIT_TOOL = "/tools/reef_wait"
REVOKED = "the access that this request began with has ended"
LIEUTENANTS = "/lieutenant/lieutenants"
QUESTIONS = "/lieutenant/questions"
# Fields of a message that are added to the response of `send` once there is an outcome.
OF_MESSAGE = ("state", "note", "outcome", "answer", "answerId", "error")


class Wait(Protocol):
    """A wait for a lieutenant, one of its messages, a question, or what a tool waits for."""

    @property
    def arguments(self) -> Json | None:
        """Arguments by which the tool `reef_wait` tells the state; None if no tool waits."""

    @property
    def lieutenant(self) -> str:
        """Id of the lieutenant."""

    @property
    def message(self) -> str:
        """Id of the message; empty if the wait is not for one."""

    @property
    def question(self) -> str:
        """Id of the question; empty if the wait is not for one."""


def newer_path(wait: Wait, response: Json) -> str:
    """Return the path of the current state; empty if the response names no object."""
    if wait.arguments is not None:
        return WAIT_TOOL
    if wait.question:
        return f"{QUESTIONS}/{wait.question}"
    if wait.message:
        return f"{LIEUTENANTS}/{wait.lieutenant}/messages/{wait.message}"
    name = str(response.get("name", "")) if "id" in response else ""
    return f"{LIEUTENANTS}/{quote(name, safe='')}" if name else ""


def is_refused(wait: Wait, status: int) -> bool:
    """Return whether the caller gets the response about the current state as it is."""
    return status in (401, 403) or (wait.arguments is not None and status != 200)


def completed(wait: Wait, response: Json, newer: Json | None, state: Json) -> Json:
    """Return the response with current values; `state` is the lieutenant's status and error."""
    if wait.arguments is not None:
        return {**response, **(newer or {})}
    if wait.question:
        return newer or response
    if wait.message:
        return _message_response(response, newer or {}, state)
    if "id" not in response:
        return {**response, **state}
    if newer and newer.get("id") == response["id"]:
        return newer
    # It was destroyed meanwhile.
    return {**response, **{key: value for key, value in state.items() if value is not None}}


def _message_response(response: Json, newer: Json, state: Json) -> Json:
    found = {key: newer[key] for key in OF_MESSAGE if key in newer}
    if "sent" not in response:
        found = newer
    elif found.get("note") is None:
        found.pop("note", None)
    # Without an outcome, the lieutenant's error may explain why.
    error = newer.get("error") or (state.get("error") if _is_open(newer) else None)
    return {**response, **found, "status": state.get("status"), "error": error}


def _is_open(newer: Json) -> bool:
    return str(newer.get("outcome", "pending")) == "pending"
