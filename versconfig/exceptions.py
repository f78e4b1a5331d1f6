"""Errors of configuration. No text of these ever holds a secret."""

from __future__ import annotations

from reef_site.common.errors import Conflict, NotFound, ReefError


class BadValue(Conflict):
    """A key's value cannot be what the key needs; the text names the key and where it stands."""


class Unset(Conflict):
    """A value is needed and stands nowhere; the text names the key."""


class Unreadable(Conflict):
    """A stored value cannot be decrypted with the keys at hand."""


class Changed(Conflict):
    """Somebody else changed the same setting meanwhile."""


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
    """Nobody knows how to test this key."""
