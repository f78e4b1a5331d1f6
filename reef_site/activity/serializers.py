"""Requests and responses of the event log, in the wire format."""

from __future__ import annotations

from typing import Any

from reef_site.activity.filters import MAX_KINDS, EventFilter, kind_prefix
from reef_site.common.api.fields import (
    AnyText,
    Choice,
    Cursor,
    Flag,
    JsonValue,
    ListOf,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Query, ResponseBody
from reef_site.common.eventlog.models import Event
from vmtree.fields import AnyVM

Json = dict[str, Any]
MAX_ROWS = 1000
DEFAULT_ROWS = 100


class EventResponse(ResponseBody):
    """An event: its kind, subject and actor."""

    id = WholeNumber(help_text="Its number; later events have higher ones.")
    at = Timestamp()
    kind = Text(help_text="Topic and what happened, such as `vm.registered`.")
    subject = Text(help_text="Id or name of what it happened to.")
    vmId = Text(source="vm_id", allow_null=True, help_text="The VM that it is about.")
    actor = Text()
    detail = JsonValue("object", allow_null=True, help_text="Null if the caller may not read it.")

    example = {
        "id": 4711,
        "at": "2026-11-22T06:21:09.098Z",
        "kind": "lieutenant.paused",
        "subject": "01KAN3M7T8Z5V0R6Q2W4E9XHCD",
        "vmId": "01KAN3M7T8Z5V0R6Q2W4E9XHCD",
        "actor": "root token",
        "detail": {"name": "ada", "from": "idle", "reason": "pause requested"},
    }


class EventsPage(ResponseBody):
    """A page of events."""

    events = EventResponse(many=True)
    count = WholeNumber()
    next = Cursor(allow_null=True, help_text="The next page's `cursor`; null on the last one.")
    last = WholeNumber(
        help_text="The number of the newest event in the log. To read on later, or to stream from"
        " here, it is the `cursor` or the `Last-Event-ID`."
    )

    example = {"events": [EventResponse.example], "count": 1, "next": None, "last": 4711}


class EventsQuery(Query):
    """Filters of events; those that are given must all hold."""

    kind = ListOf(
        Text(length=60),
        most=MAX_KINDS,
        of="kinds",
        source="kinds",
        help_text="A kind such as `vm.late`, or a topic such as `vm`. May be repeated.",
    )
    subtree = AnyVM(help_text="Only events about this VM and its descendants.")
    subject = AnyVM(help_text="Only events about this VM, lieutenant, key or snapshot.")
    actor = AnyText()
    since = Timestamp()
    order = Choice(("oldest", "newest"), default="oldest", help_text="Which events come first.")
    limit = WholeNumber(least=1, most=MAX_ROWS, default=DEFAULT_ROWS)
    cursor = Cursor(help_text="`next` or `last` of an earlier response, or the id of an event.")
    after = Cursor(older_name=True)
    log = Flag(
        help_text="Of a stream: `false` for only the notices which rows have changed, without"
        " events."
    )


_read = object_reader(EventResponse, blank_as_null=True)


def event_json(event: Event, *, with_detail: bool = True) -> Json:
    """Return an event; without its detail if the reader may not have it."""
    data = _read(event)
    return data if with_detail else data | {"detail": None}


def filter_of(query: Json) -> EventFilter:
    """Return the filter of a parsed query."""
    kinds = tuple(kind_prefix(kind) for kind in query["kinds"] or ())
    texts = {name: query[name] or "" for name in ("subtree", "subject", "actor")}
    return EventFilter(kinds, **texts)
