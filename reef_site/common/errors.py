"""Errors that a caller of reef can be told about; `error_responses` renders each with its status.

Each app derives its own errors from `ReefError` in its `exceptions.py`.
"""

from __future__ import annotations


class ReefError(Exception):
    """Base class; the text of the exception is the `error` of the response."""

    status = 400
    # Sent as Retry-After, in seconds; 0 sends none.
    retry_seconds = 0
    # The form field or JSON key at fault, if it is one.
    field = ""


class BadInput(ReefError):
    """The request is invalid."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class Forbidden(ReefError):
    """The caller lacks the permission; the text names the rule.

    The audit log shows `rule`, `action` and `target` in columns of their own, if they are given.
    """

    status = 403

    def __init__(self, text: str, *, rule: str = "", action: str = "", target: str = "") -> None:
        super().__init__(text)
        self.rule, self.action, self.target = rule, action, target


class NotFound(ReefError):
    """The object does not exist, or no longer."""

    status = 404


class Conflict(ReefError):
    """The request conflicts with the current state."""

    status = 409


class IllegalMove(Conflict):
    """The state machine has no such transition."""


class LostRace(Conflict):
    """Another process moved this row first."""
