"""What can go wrong with a lieutenant, by name. `reef_site.api` turns each into an HTTP status."""

from __future__ import annotations

from reef_site.common.errors import ReefError


class LieutenantError(ReefError):
    """Base of all below; its text is what the caller is told."""

    status = 400


class BadInput(LieutenantError):
    """The request itself is wrong; `field` names what the form marks."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class TooLarge(BadInput):
    """More text than a message may have."""

    status = 413


class NotFound(LieutenantError):
    """There is no such lieutenant, or no longer."""

    status = 404


class NameTaken(LieutenantError):
    """Another living lieutenant has this name."""

    status = 409


class KeyReused(LieutenantError):
    """An Idempotency-Key came back with another request."""

    status = 409


class TooLate(LieutenantError):
    """The message has gone too far to be taken back."""

    status = 409


class NotNow(LieutenantError):
    """The lieutenant's status does not allow this."""


class AgentMissing(LieutenantError):
    """No agent program on this host; the text says how to get one."""

    status = 503


class AgentMisconfigured(LieutenantError):
    """The agent's configuration is damaged; the text names the file and the place."""

    status = 503


class SessionDamaged(LieutenantError):
    """The agent's session file cannot be continued; the text names it and the ways to go on."""


class IsolationUnavailable(LieutenantError):
    """Agents cannot be isolated here as they must be; the text says why."""

    status = 503


class NoProvider(LieutenantError):
    """A lieutenant on a VM was asked for, and reef starts them on its own host only."""


class IllegalMove(LieutenantError):
    """The state machine has no such arrow."""

    status = 409


class LostRace(LieutenantError):
    """Somebody else moved this row first."""

    status = 409


class ProgressLost(Exception):
    """Another follower has moved a journal's offset: what was read from there is not to be kept."""


class NotTheFollower(Exception):
    """Another follower of the same data folder's identity is at work; the text says which."""


class TransportError(Exception):
    """A keeper could not be started, reached or read."""


class Unreachable(TransportError):
    """Nobody answers at a keeper's socket."""


class NotConnected(Unreachable):
    """No connection to a keeper came about, so it has received nothing of the request."""
