"""Errors of lieutenants, beside those of `reef_site.common.errors`."""

from __future__ import annotations

from reef_site.common.errors import BadInput, Conflict, NotFound, ReefError
from reef_site.common.text import clip

MAX_NAME_LENGTH = 64


class TooLarge(BadInput):
    """A message is too long."""

    status = 413


class LieutenantNotFound(NotFound):
    """No lieutenant has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Lieutenant '{clip(name, MAX_NAME_LENGTH)}' not found")


class NameTaken(Conflict):
    """Another active lieutenant has this name."""

    field = "name"


class KeyReused(Conflict):
    """An Idempotency-Key was used again with another request."""


class TooLate(Conflict):
    """The message cannot be withdrawn any more."""


class NotNow(ReefError):
    """The status of the lieutenant does not allow this."""


class NotSupported(Conflict):
    """The lieutenant's kind of agent cannot do this."""


class ExportFailed(ReefError):
    """The agent's program could not export a session now."""

    status = 503
    retry_seconds = 5


class ProgramUnavailable(ReefError):
    """A program of the lieutenant's machine could not be run, or the machine not be reached."""

    status = 503
    retry_seconds = 5


class AgentMissing(ReefError):
    """There is no agent program on this host; the text says how to install it."""

    status = 503


class AgentMisconfigured(ReefError):
    """The agent's configuration is invalid; the text names the file and the position."""

    status = 503


class SessionDamaged(ReefError):
    """The agent's session file is damaged; the text names it and the remedies."""


class IsolationUnavailable(ReefError):
    """The required isolation of agents is not available here; the text says why."""

    status = 503


class NoProvider(ReefError):
    """The request asks for a lieutenant on a VM, but reef starts them on its own host only."""


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


class Overtaken(TransportError):
    """A machine refused a command, since it has seen one of a newer follower.

    `generation` is that of the newer one.
    """

    def __init__(self, text: str, generation: int) -> None:
        super().__init__(text)
        self.generation = generation
