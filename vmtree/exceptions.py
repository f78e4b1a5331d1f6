"""What can go wrong anywhere in the fleet, by name. `reef_site.api` answers with each one's status.

Errors of the apps above are subclasses of `FleetError`.
"""

from __future__ import annotations


class FleetError(Exception):
    """Base of all below; its text is what the caller is told."""

    status = 400
    # After how many seconds it may be tried again; 0 says nothing about that.
    retry_seconds = 0


class BadInput(FleetError):
    """The request itself is wrong; `field` names what a form would mark."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class Forbidden(FleetError):
    """The caller's token does not reach this far; the text names the rule."""

    status = 403


class NotFound(FleetError):
    """There is no such thing, or no longer."""

    status = 404


class Conflict(FleetError):
    """It would clash with what is there."""

    status = 409
