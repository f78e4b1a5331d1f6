"""Kinds of notifications, and checks whether their cause still holds.

A new kind is one more entry of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from django.contrib.auth.base_user import AbstractBaseUser

from bootloader.models import Provisioning
from bootloader.states import State
from lieutenants.models import Lieutenant, Question
from lieutenants.states import Status
from reef_site.activity import visibility
from reef_site.activity.filters import EventFilter
from reef_site.common import clock
from reef_site.common.eventlog.models import Event
from registry.models import VM

# Takes events of one kind; returns the ids of their subjects that are still as the event says.
Holding = Callable[[Sequence[Event]], set[str]]


@dataclass(frozen=True)
class TellKind:
    """One kind: its label on the page, kinds of events, and whether they are still of interest.

    Without `holding`, they always are.
    """

    label: str
    events: tuple[str, ...]
    holding: Holding | None = None
    is_default: bool = True


def _subjects(events: Iterable[Event]) -> list[str]:
    return [event.subject for event in events]


def _open_questions(events: Sequence[Event]) -> set[str]:
    found = Question.objects.open().filter(pk__in=_subjects(events))
    return set(found.values_list("pk", flat=True))


def _in_error(events: Sequence[Event]) -> set[str]:
    found = Lieutenant.objects.filter(pk__in=_subjects(events), status=Status.ERROR)
    return set(found.values_list("pk", flat=True))


def _have_finished(events: Sequence[Event]) -> set[str]:
    """Return the lieutenants that have worked, and have nothing to do now."""
    worked = [event.subject for event in events if event.detail.get("from") == Status.WORKING]
    found = Lieutenant.objects.filter(pk__in=worked, status=Status.IDLE)
    return set(found.values_list("pk", flat=True))


def _silent(events: Sequence[Event]) -> set[str]:
    found = VM.objects.silent(clock.now()).filter(pk__in=_subjects(events))
    return set(found.values_list("pk", flat=True))


def _failed(events: Sequence[Event]) -> set[str]:
    found = Provisioning.objects.filter(pk__in=_subjects(events), state=State.FAILED)
    return set(found.values_list("pk", flat=True))


KINDS: dict[str, TellKind] = {
    "question": TellKind("An agent asks something", ("question.asked",), _open_questions),
    "error": TellKind("A lieutenant is in error", ("lieutenant.error",), _in_error),
    "silent": TellKind("A VM falls silent", ("vm.silent",), _silent),
    "boot": TellKind("A provisioning fails", ("boot.failed",), _failed),
    "snapshot": TellKind("A snapshot fails", ("snapshot.failed",)),
    "budget": TellKind("A budget is used up", ("grant.used-up",)),
    "finished": TellKind(
        "A lieutenant finishes its work", ("lieutenant.idle",), _have_finished, is_default=False
    ),
    "operation": TellKind("A subtree operation is done", ("operation.done",), is_default=False),
    "config": TellKind("Config changes", ("config",), is_default=False),
    "token": TellKind("A token is made or revoked", ("permission",), is_default=False),
}


def kinds_for(user: AbstractBaseUser) -> dict[str, TellKind]:
    """Return the kinds whose events this person may read."""
    sight = visibility.sight_of(user)
    return {
        key: kind
        for key, kind in KINDS.items()
        if all(sight.reads(event.partition(".")[0]) for event in kind.events)
    }


def filter_for(keys: Iterable[str], subtree: str) -> EventFilter:
    """Return the filter of events for these kinds, in one subtree if given."""
    events = [event for key in keys if key in KINDS for event in KINDS[key].events]
    return EventFilter(tuple(events), subtree=subtree)


def keys_of(wanted: EventFilter) -> list[str]:
    """Return the kinds whose events pass the filter."""
    return [key for key, kind in KINDS.items() if set(kind.events) <= set(wanted.kinds)]


def still_holding(events: Iterable[Event]) -> set[int]:
    """Return the numbers of the events that are still of interest: one query for each kind."""
    found = list(events)
    holding = {event.pk for event in found}
    for kind in KINDS.values():
        mine = [event for event in found if event.kind in kind.events]
        if kind.holding and mine:
            subjects = kind.holding(mine)
            holding -= {event.pk for event in mine if event.subject not in subjects}
    return holding
