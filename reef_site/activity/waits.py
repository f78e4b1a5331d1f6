"""Waits of `reef_wait` for an event of the log."""

from __future__ import annotations

from typing import Any, Self

from lieutenants.awaited_events import AwaitedEvent, EventWait
from reef_site.activity.filters import EventFilter, lines_of
from reef_site.activity.naming import with_names
from reef_site.activity.serializers import event_json, filter_of
from reef_site.activity.visibility import TOPICS, Sight, sight_of
from reef_site.common.errors import BadInput
from reef_site.common.eventlog import reading
from reef_site.common.eventlog.models import Event

Json = dict[str, Any]


class LogWait(EventWait):
    """A wait for the first event behind the number `after` that its caller may read."""

    def __init__(self, wanted: EventFilter, sight: Sight, after: int) -> None:
        self._wanted, self._sight, self._after = wanted, sight, after

    @classmethod
    def begin(cls, caller: object, given: Json) -> Self:
        wanted, sight = filter_of(given), sight_of(caller)
        _check_kinds(wanted, sight)
        return cls(wanted, sight, _start(given))

    @classmethod
    def of_json(cls, facts: Json) -> Self:
        wanted, sight = EventFilter.of_json(facts["filter"]), Sight.of_json(facts["sight"])
        return cls(wanted, sight, facts["after"])

    def as_json(self) -> Json:
        sight = self._sight.as_json()
        return {"filter": self._wanted.as_json(), "sight": sight, "after": self._after}

    def arguments(self) -> Json:
        facts = self._wanted.as_json()
        given = {"kind": facts.pop("kinds"), **facts}
        return {**{name: each for name, each in given.items() if each}, "cursor": self._after}

    def find(self) -> AwaitedEvent | None:
        up_to = reading.last_certain_id()
        if up_to <= self._after:
            return None
        found = self._sight.rows(self._wanted.rows(reading.between(self._after, up_to))).first()
        if found is None:
            # Nobody reads the same events twice: the log may be long, and the wait, too.
            self._after = up_to
            return None
        return self._awaited(found)

    def __str__(self) -> str:
        kinds = " or ".join(self._wanted.kinds)
        words = [f"event {kinds}" if kinds else "any event"]
        parts = {
            "about": self._wanted.subject,
            "in the subtree of": self._wanted.subtree,
            "by": self._wanted.actor,
        }
        return " ".join(words + [f"{word} {value}" for word, value in parts.items() if value])

    def _awaited(self, event: Event) -> AwaitedEvent:
        line = lines_of([event.vm_id]).get(event.vm_id, frozenset())
        is_whole = self._sight.sees_detail(event.topic, line)
        facts = event_json(event, with_detail=is_whole)
        [named] = with_names([event])
        name = named.subject_name if is_whole else ""
        subject = _with_name(event.subject, name)
        actor = _with_name(event.actor, named.actor_name)
        return AwaitedEvent(f"{event.kind} about {subject} by {actor}", facts)


def _with_name(text: str, name: str) -> str:
    """Return what the log has, with a name that says more."""
    return f"{text} ({name})" if name not in ("", text) else text


def _check_kinds(wanted: EventFilter, sight: Sight) -> None:
    """Raise BadInput for a topic of which the caller reads no events: the wait would not end."""
    readable = [each for each in TOPICS if sight.reads(each)]
    for kind in wanted.kinds:
        topic = kind.partition(".")[0]
        if topic not in readable:
            raise BadInput(
                f"event.kind: you read no events of the topic '{topic}'; topics that you read: "
                f"{', '.join(readable)}",
                "event",
            )


def _start(given: Json) -> int:
    """Return the number behind which events count: by default those from now on."""
    last = reading.last_certain_id()
    if given.get("cursor") is not None:
        # A higher number than there is comes from another database.
        return min(int(given["cursor"]), last)
    return reading.last_before(given["since"]) if given.get("since") else last
