"""Errors of lieutenants. `reef_site.api` maps them to HTTP statuses."""

from __future__ import annotations

from reef_site.common.errors import ReefError


class LieutenantError(ReefError):
    """Base of the errors below; its text is shown to the caller."""

    status = 400


class BadInput(LieutenantError):
    """The request is invalid; `field` is the field to mark in a form."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class TooLarge(BadInput):
    """A message is too long."""

    status = 413


class NotFound(LieutenantError):
    """The lieutenant does not exist or was destroyed."""

    status = 404


class NameTaken(LieutenantError):
    """Another active lieutenant has this name."""

    status = 409


class KeyReused(LieutenantError):
    """An Idempotency-Key was used again with another request."""

    status = 409


class TooLate(LieutenantError):
    """The message cannot be withdrawn any more."""

    status = 409


class NotNow(LieutenantError):
    """The status of the lieutenant does not allow this."""


class AgentMissing(LieutenantError):
    """There is no agent program on this host; the text says how to install it."""

    status = 503


class AgentMisconfigured(LieutenantError):
    """The agent's configuration is invalid; the text names the file and the position."""

    status = 503


class SessionDamaged(LieutenantError):
    """The agent's session file is damaged; the text names it and the remedies."""


class IsolationUnavailable(LieutenantError):
    """The required isolation of agents is not available here; the text says why."""

    status = 503


class NoProvider(LieutenantError):
    """The request asks for a lieutenant on a VM, but reef starts them on its own host only."""


class IllegalMove(LieutenantError):
    """The state machine has no such transition."""

    status = 409


class LostRace(LieutenantError):
    """Another process changed this row first."""

    status = 409


class ProgressLost(Exception):
    """Another follower has advanced the offset of a journal, so our batch must be dropped."""


class NotTheFollower(Exception):
    """Another follower with the same data folder identity is active; the text names it."""


class TransportError(Exception):
    """A keeper could not be started, reached or read."""


class Unreachable(TransportError):
    """The keeper's socket does not respond."""


class NotConnected(Unreachable):
    """No connection to a keeper was established, so it has not received the request."""
