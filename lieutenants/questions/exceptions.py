"""Errors of questions."""

from __future__ import annotations

from reef_site.common.errors import Conflict, ReefError


class AlreadyDecided(Conflict):
    """Another answer, the deadline, or the end of the agent was first; the text says which."""


class TooManyOpen(ReefError):
    """The agent has asked too much that nobody has answered yet."""

    status = 429
    retry_seconds = 60
