"""Errors of configuration. No text of these ever holds a secret."""

from __future__ import annotations

from reef_site.common.errors import Conflict, NotFound, ReefError


class BadValue(Conflict):
    """A key's value is invalid; the text names the key and the place."""


class Unset(Conflict):
    """A required value is missing; the text names the key."""


class Unreadable(Conflict):
    """A stored value cannot be decrypted with the keys at hand."""


class Changed(Conflict):
    """The setting was changed by somebody else meanwhile."""


class TooManyChanges(ReefError):
    """A node's token changed settings too often within a minute."""

    status = 429

    def __init__(self, most: int, retry_seconds: int) -> None:
        super().__init__(
            f"rule: a node changes at most {most} settings a minute; "
            f"try again in {retry_seconds} seconds"
        )
        self.retry_seconds = retry_seconds


class NoCheck(NotFound):
    """There is no test for this key."""
