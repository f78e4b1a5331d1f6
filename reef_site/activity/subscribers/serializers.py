"""Requests and responses of subscribers and deliveries, in the wire format."""

from __future__ import annotations

from typing import Any

from reef_site.activity.filters import MAX_KINDS, EventFilter, kind_prefix
from reef_site.activity.models import (
    SHARED_CHANNELS,
    SHARED_STATES,
    Delivery,
    Subscriber,
)
from reef_site.common.api.fields import (
    Choice,
    Cursor,
    Flag,
    ListOf,
    NullableText,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, Query, ResponseBody

Json = dict[str, Any]
MAX_ROWS = 1000
FILTERS = ("kinds", "subtree", "subject", "actor")

# -- responses -----------------------------------------------------------------------------------


class SubscriberResponse(ResponseBody):
    """Somebody who is sent events, without the webhook secret."""

    id = WholeNumber()
    name = Text()
    channel = Choice(SHARED_CHANNELS)
    url = Text(allow_null=True)
    email = Text(allow_null=True)
    kinds = ListOf(Text(), most=MAX_KINDS, help_text="Kinds and topics; empty for all.")
    subtree = Text(allow_null=True)
    subject = Text(allow_null=True)
    actor = Text(allow_null=True)
    active = Flag(source="is_active")
    position = WholeNumber(help_text="Events up to this number are delivered, or about to be.")
    failures = WholeNumber(help_text="Failed attempts since the last success.")
    retryAt = Timestamp(source="retry_at", allow_null=True)
    createdAt = Timestamp(source="created_at")
    createdBy = Text(source="created_by")

    example = {
        "id": 3,
        "name": "pager",
        "channel": "webhook",
        "url": "https://pager.example/reef",
        "email": None,
        "kinds": ["lieutenant.error", "vm.silent"],
        "subtree": None,
        "subject": None,
        "actor": None,
        "active": True,
        "position": 4711,
        "failures": 0,
        "retryAt": None,
        "createdAt": "2026-11-22T06:21:09.098Z",
        "createdBy": "root token",
    }


class NewSubscriberResponse(SubscriberResponse):
    secret = Text(required=False, help_text="The generated webhook secret, shown this once.")


class AttemptResponse(ResponseBody):
    """One attempt to deliver, and what the receiver answered."""

    at = Timestamp()
    code = WholeNumber(allow_null=True, help_text="HTTP status; null without an answer.")
    answer = Text(help_text="The beginning of its body.")
    problem = Text(help_text="Why the attempt failed; empty if it did not.")
    milliseconds = WholeNumber()


class DeliveryResponse(ResponseBody):
    """An event on its way to a subscriber."""

    id = WholeNumber()
    event = WholeNumber(source="event_number", allow_null=True, help_text="Null for a test.")
    kind = Text()
    state = Choice(SHARED_STATES)
    attempts = WholeNumber()
    since = Timestamp()
    dueAt = Timestamp(source="due_at", allow_null=True, help_text="Null when it has ended.")
    endedAt = Timestamp(source="ended_at", allow_null=True)
    log = AttemptResponse(many=True)

    example = {
        "id": 17,
        "event": 4711,
        "kind": "vm.silent",
        "state": "delivered",
        "attempts": 1,
        "since": "2026-11-22T06:21:09.098Z",
        "dueAt": None,
        "endedAt": "2026-11-22T06:21:09.498Z",
        "log": [
            {
                "at": "2026-11-22T06:21:09.498Z",
                "code": 204,
                "answer": "",
                "problem": "",
                "milliseconds": 31,
            }
        ],
    }


class ReplayResponse(ResponseBody):
    replayed = WholeNumber(help_text="Deliveries that had ended and are made again.")

    example = {"replayed": 12}


_read_subscriber = object_reader(SubscriberResponse, *FILTERS, blank_as_null=True)
_read_delivery = object_reader(DeliveryResponse)


def subscriber_json(row: Subscriber) -> Json:
    """Return a subscriber, without its secret."""
    wanted = row.filter.as_json()
    texts = {name: wanted[name] or None for name in FILTERS[1:]}
    return _read_subscriber(row) | {"kinds": wanted["kinds"], **texts}


def delivery_json(row: Delivery) -> Json:
    """Return a delivery with its newest attempts."""
    data = _read_delivery(row)
    return data if row.ended_at is None else data | {"dueAt": None}


# -- requests ------------------------------------------------------------------------------------


class SubscriberChangeBody(Body):
    """Fields of a subscriber; it keeps the values of absent ones."""

    name = Text(length=100, blank=False, required=False)
    url = NullableText(length=500, required=False)
    email = NullableText(length=254, required=False)
    kinds = ListOf(
        Text(length=60),
        most=MAX_KINDS,
        of="kinds",
        required=False,
        help_text="Kinds such as `vm.late` and topics such as `vm`; an empty list for all.",
    )
    subtree = NullableText(length=255, required=False)
    subject = NullableText(length=255, required=False)
    actor = NullableText(length=200, required=False)
    active = Flag(source="is_active", required=False, help_text="False: events wait for it.")
    secret = Text(
        length=500,
        required=False,
        allow_null=True,
        help_text="Signs webhook calls. Absent: a new webhook gets a generated one.",
    )

    example: Json | None = {"active": False}


class SubscriberBody(SubscriberChangeBody):
    """A new subscriber, by webhook or by e-mail."""

    name = Text(length=100, blank=False)
    channel = Choice(SHARED_CHANNELS)

    example = {
        "name": "pager",
        "channel": "webhook",
        "url": "https://pager.example/reef",
        "kinds": ["lieutenant.error", "vm.silent"],
    }


class ReplayBody(Body):
    after = WholeNumber(help_text="The events behind this number are delivered again.")

    example = {"after": 4700}


class DeliveriesQuery(Query):
    state = Choice(SHARED_STATES)
    limit = WholeNumber(least=1, most=MAX_ROWS, default=100)
    cursor = Cursor()


def split_fields(data: Json, known: EventFilter) -> tuple[Json, str | None]:
    """Return the columns of a parsed body, and the secret; `known` is the filter so far."""
    fields = dict(data)
    secret = fields.pop("secret", None)
    wanted = {**known.as_json(), **{name: fields.pop(name) for name in FILTERS if name in fields}}
    wanted["kinds"] = [kind_prefix(kind) for kind in wanted["kinds"]]
    return fields | {"wanted": wanted}, secret
