"""Errors of lieutenants, beside those of `reef_site.common.errors`."""

from __future__ import annotations

from reef_site.common.errors import BadInput, Conflict, ReefError


class TooLarge(BadInput):
    """More text than a message may have."""

    status = 413


class NameTaken(Conflict):
    """Another living lieutenant has this name."""

    field = "name"


class KeyReused(Conflict):
    """An Idempotency-Key came back with another request."""


class TooLate(Conflict):
    """The message has gone too far to be taken back."""


class NotNow(ReefError):
    """The lieutenant's status does not allow this."""


class AgentMissing(ReefError):
    """No agent program on this host; the text says how to get one."""

    status = 503


class AgentMisconfigured(ReefError):
    """The agent's configuration is damaged; the text names the file and the place."""

    status = 503


class SessionDamaged(ReefError):
    """The agent's session file cannot be continued; the text names it and the ways to go on."""


class IsolationUnavailable(ReefError):
    """Agents cannot be isolated here as they must be; the text says why."""

    status = 503


class NoProvider(ReefError):
    """A lieutenant on a VM was asked for, and reef starts them on its own host only."""


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
