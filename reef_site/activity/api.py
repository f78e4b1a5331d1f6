"""API of the event log: `GET /events`, as pages of JSON or as a stream."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.activity import visibility
from reef_site.activity.filters import lines_of
from reef_site.activity.serializers import EventsPage, EventsQuery, event_json, filter_of
from reef_site.common.api.endpoints import endpoint
from reef_site.common.eventlog import reading
from reef_site.common.eventlog.models import Event
from reef_site.common.paging import take_page_by_key

Json = dict[str, Any]
STREAM = "text/event-stream"


class Events(APIView):
    """`GET /events`. A request for a stream is checked here for the edge, which then streams in
    place of the response.
    """

    @endpoint(query=EventsQuery, response=(EventsPage, STREAM))
    def get(self, request: Request) -> Response:
        """List what happened in the fleet, or stream it with `Accept: text/event-stream`.

        A page has the events that the caller may read, the oldest first. A stream sends each event
        as `event: log` with its number as `id`, from the time of the request on; with
        `Last-Event-ID`, `cursor` or `since` also those before, without a gap. Without filters it
        tells with `lieutenants`, `nodes` and `provisionings` which rows have changed, too.
        """
        query, sight = EventsQuery.parse(request), visibility.sight_of(request.user)
        if wants_stream(request.headers.get("Accept", "")):
            return Response(_stream_facts(query, sight, from_start=_is_from_start(request)))
        return Response(_page(query, sight))


def wants_stream(accept: str) -> bool:
    """Return whether this Accept header is that of a client of server-sent events."""
    return STREAM in accept.lower()


def _page(query: Json, sight: visibility.Sight) -> Json:
    last = reading.last_certain_id()
    found = sight.rows(filter_of(query).rows(Event.objects.filter(pk__lte=last)))
    if query["since"]:
        found = found.filter(at__gte=query["since"])
    is_newest_first = query["order"] == "newest"
    page, following = take_page_by_key(
        found, query["limit"], query["cursor"], newest_first=is_newest_first
    )
    # Only the details need the tree, and only if some of them are not for this caller.
    lines = lines_of(event.vm_id for event in page) if sight.bare else {}
    events = [
        event_json(
            event, with_detail=sight.sees_detail(event.topic, lines.get(event.vm_id, frozenset()))
        )
        for event in page
    ]
    return {"events": events, "count": len(events), "next": following, "last": last}


def _is_from_start(request: Request) -> bool:
    """Return whether all events are wanted. In a page, no cursor and 0 are the same."""
    return "0" in (request.query_params.get("cursor"), request.query_params.get("after"))


def _stream_facts(query: Json, sight: visibility.Sight, *, from_start: bool) -> Json:
    """Return what the edge needs to know; `edge.streams.Streams.fleet` reads it."""
    given = filter_of(query)
    after = 0 if from_start else query["cursor"]
    if after is None and query["since"]:
        after = reading.last_before(query["since"])
    return {
        "sight": sight.as_json(),
        "filter": given.as_json(),
        "after": after,
        "log": query["log"] is not False,
        "notices": query["log"] is not True and given.is_empty and query["since"] is None,
    }
