"""A wait for an event of the log, which an app above reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

from reef_site.common.hooks import Hook

Json = dict[str, Any]
LOG = "log"


class AwaitedEvent(NamedTuple):
    """An event that ends a wait: what it is about, and all of it as the API shows it."""

    about: str
    facts: Json


class EventWait(ABC):
    """A wait for the first event that matches. It remembers how far it has looked."""

    @classmethod
    @abstractmethod
    def begin(cls, caller: object, given: Json) -> Self:
        """Return the wait for what the tool was given. Raises BadInput."""

    @classmethod
    @abstractmethod
    def of_json(cls, facts: Json) -> Self:
        """Return the wait of `as_json`."""

    @abstractmethod
    def as_json(self) -> Json:
        """Return the wait with what its caller may read, for another process of reef."""

    @abstractmethod
    def arguments(self) -> Json:
        """Return the tool's argument by which the wait goes on without a gap."""

    @abstractmethod
    def find(self) -> AwaitedEvent | None:
        """Return the event if it has come. Needs one query or two."""

    @abstractmethod
    def __str__(self) -> str:
        """Return what is waited for, in words."""


event_waits: Hook[type[EventWait]] = Hook(
    "lieutenants.event_waits", "Waits for events of the log, which is read by an app above."
)


def begin(caller: object, given: Json) -> EventWait:
    """Return the wait for what the tool was given. Raises BadInput."""
    return event_waits[LOG].begin(caller, given)


def of_json(facts: Json) -> EventWait:
    """Return the wait of `EventWait.as_json`."""
    return event_waits[LOG].of_json(facts)
