"""Errors of providers and provisioning, beside those of `reef_site.common.errors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reef_site.common.errors import BadInput, NotFound, ReefError

if TYPE_CHECKING:
    from bootloader.models.joining import JoinToken


class ProviderError(ReefError):
    """The VM provider did not do what it was asked; the text says why, without secrets.

    `retry` says whether the same question may simply be asked again later, `answered` is the
    status of its answer where it speaks HTTP and gave one.
    """

    status = 502
    retry = False
    answered: int | None = None


class ProviderRefused(ProviderError):
    """The provider will not do this for us: wrong input, quota, a thing that is not ours."""


class BadProviderKey(ProviderRefused):
    """The provider does not know our key, or there is none."""


class QuotaExceeded(ProviderRefused):
    """The account's limit on VMs is reached."""


class NoHostFree(QuotaExceeded):
    """No SSH host is free, or none that is what was asked for."""


class NoSuchMachine(ProviderRefused):
    """The provider has no machine of this id (any longer)."""


class CannotDo(ProviderRefused):
    """This kind of machine has no such ability, such as pausing a host of the operator's own."""


class ProviderAway(ProviderError):
    """The provider could not be reached, or said that it is busy: nothing has happened."""

    retry = True


class OutcomeUnknown(ProviderError):
    """The answer was lost, or a 503: it may have happened. Look before you ask again."""


class StepFailed(ReefError):
    """A step of a provisioning cannot come to a good end; the text says why."""

    status = 502


class UnknownProfile(NotFound):
    """There is no profile of this type; `known` are the types that there are."""

    def __init__(self, type: str, known: list[str]) -> None:  # noqa: A002
        super().__init__(f"Unknown VM type: {type}")
        self.known = known


class NothingToHandOut(ReefError):
    """The files that a VM fetches from here could not be made; the text says why."""

    status = 503


class RateLimited(ProviderAway):
    """The provider asks us to wait; `seconds` if it said how long."""

    def __init__(self, text: str, seconds: float | None = None) -> None:
        super().__init__(text)
        self.seconds = seconds


class PartlyDone(ProviderError):
    """Of several machines only those in `made` exist; they are the caller's to use or delete."""

    def __init__(self, text: str, made: tuple[str, ...]) -> None:
        super().__init__(text)
        self.made = made


class ShellError(ReefError):
    """A command could not be run on a machine by SSH; `retry` says whether to try again later."""

    status = 502
    retry = False


class ShellAway(ShellError):
    """The machine cannot be reached by SSH (yet), or the connection was lost."""

    retry = True


class ShellBusy(ShellAway):
    """The SSH server hung up before its greeting: it has too many connections at this moment."""


class CommandTimeout(ShellAway):
    """A command did not end in time; it may still be running there."""


class ShellRefused(ShellError):
    """The machine does not take our key, or is not the one that we know by this host key."""


class JoinRefused(ReefError):
    """A VM was turned away: its join token is not good (401), another's (403), or clashes (409).

    `why` is a word of `bootloader.models.Why`, `token` the row of the token if it is known.
    """

    def __init__(
        self, text: str, why: str, token: JoinToken | None = None, *, status: int = 401
    ) -> None:
        super().__init__(text)
        self.why, self.token, self.status = why, token, status


class UnknownProvider(BadInput):
    """No provider has this name."""

    def __init__(self, text: str) -> None:
        super().__init__(text, field="provider")
