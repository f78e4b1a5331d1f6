"""Errors of providers, provisioning and joining, beside those of `reef_site.common.errors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reef_site.common.errors import BadInput, NotFound, ReefError
from reef_site.common.text import clip

if TYPE_CHECKING:
    from bootloader.models.joining import JoinToken


class ProviderError(ReefError):
    """The provider did not do what it was asked to. The text gives the reason, without secrets.

    `retry` says whether the same request may be repeated later; `answered` is the HTTP status of
    the response, if there was one.
    """

    status = 502
    retry = False
    http_status: int | None = None


class ProviderRefused(ProviderError):
    """The provider rejected the request: wrong input, quota, or something that is not ours."""


class BadProviderKey(ProviderRefused):
    """The provider does not accept our key, or no key is set."""


class QuotaExceeded(ProviderRefused):
    """The account's limit on VMs is reached."""


class NoHostFree(QuotaExceeded):
    """No SSH host is free, or no free one matches the request."""


class NoSuchMachine(ProviderRefused):
    """The provider has no machine with this id, or no longer has it."""


class UnsupportedOperation(ProviderRefused):
    """The provider does not support the operation, such as pausing an SSH host."""


class ProviderUnavailable(ProviderError):
    """The provider is unreachable or busy. Nothing was changed."""

    retry = True


class OutcomeUnknown(ProviderError):
    """The response was lost, or was a 503: the request may have succeeded. Check before a retry."""


class StepFailed(ReefError):
    """A provisioning step failed for good; the text gives the reason."""

    status = 502


class UnknownProfile(NotFound):
    """There is no profile of this type; `known` lists the existing types."""

    def __init__(self, type: str, known: list[str]) -> None:  # noqa: A002
        super().__init__(f"Unknown VM type: {clip(type, 100)}")
        self.known = known


class PackagingFailed(ReefError):
    """The files that VMs download could not be built; the text gives the reason."""

    status = 503


class RateLimited(ProviderUnavailable):
    """The provider asks us to wait, for `seconds` if it said how long."""

    def __init__(self, text: str, seconds: float | None = None) -> None:
        super().__init__(text)
        self.seconds = seconds


class PartiallyCreated(ProviderError):
    """Of several requested machines only those in `made` exist; the caller uses or deletes them."""

    def __init__(self, text: str, made: tuple[str, ...]) -> None:
        super().__init__(text)
        self.made = made


class ShellError(ReefError):
    """A command could not be run on a machine by SSH; `retry` says whether to try again later."""

    status = 502
    retry = False


class ShellUnavailable(ShellError):
    """The machine is not reachable by SSH yet, or the connection was lost."""

    retry = True


class ShellBusy(ShellUnavailable):
    """The SSH server closed the connection before its greeting: it has too many connections."""


class CommandTimeout(ShellUnavailable):
    """A command did not finish in time and may still be running."""


class ShellRefused(ShellError):
    """The machine rejects our key, or shows another host key than the known one."""


class JoinRefused(ReefError):
    """A join was rejected: invalid token (401), another VM's token (403), or a conflict (409).

    `why` is a value of `bootloader.models.RefusalReason`, `token` the token's row if it is known.
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
