"""API of transcripts and usage."""

from __future__ import annotations

from django.http import StreamingHttpResponse
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from lieutenants import services
from lieutenants.api_base import EVENT_STREAM, UNREADABLE, check_readable
from lieutenants.models import Usage
from lieutenants.requests import ExportQuery, FindQuery, ReadQuery, StreamQuery, TranscriptQuery
from lieutenants.transcript import finding, outputs
from lieutenants.transcript.export import ExportFormat, export_response
from lieutenants.transcript.recorder import texts_of_open
from lieutenants.transcript.serializers import (
    ExportResponse,
    MatchResponse,
    ReadResponse,
    TranscriptResponse,
    UsagesResponse,
    entries_json,
    match_json,
    read_json,
    usage_json,
)
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Cursor
from reef_site.common.api.serializers import list_of
from vmtree import permissions
from vmtree.permissions import Action


class TranscriptActions(ViewSet):
    """Routes of a lieutenant's transcript."""

    @action(detail=True, methods=["get"])
    @endpoint(query=ReadQuery, response=ReadResponse, errors=UNREADABLE)
    def read(self, request: Request, name: str) -> Response:
        """Return the end of the running or newest answer (`?tail=` characters).

        With `?history=`, also return that many earlier answers. With `?limit=`,
        return that many characters after position `?after=`.
        """
        query = ReadQuery.parse(request)
        lieutenant = check_readable(services.find(name), request)
        return Response(read_json(lieutenant, **query))

    @action(detail=True, methods=["get"])
    @endpoint(query=TranscriptQuery, response=TranscriptResponse, errors=UNREADABLE)
    def transcript(self, request: Request, name: str) -> Response:
        """Return up to `?limit=` (200) transcript entries with ids above `?cursor=`.

        `next` is the next cursor. Very long entries make a page shorter; `?textLimit=` shortens
        long texts to both ends.
        """
        lieutenant = check_readable(services.find_any(name), request)
        query = TranscriptQuery.parse(request)
        rows, more = outputs.page_of_entries(
            lieutenant,
            after=query["cursor"] or 0,
            limit=query["limit"],
            text_limit=query["text_limit"],
        )
        texts = texts_of_open(rows)
        entries = entries_json(rows, texts)
        last = entries[-1]["id"] if more else None
        return Response(
            {"entries": entries, "count": len(entries), "next": last, "rev": lieutenant.rev}
        )

    @action(detail=True, methods=["get"])
    @endpoint(
        query=FindQuery,
        response=list_of("matches", MatchResponse, next_page=Cursor),
        errors={**UNREADABLE, 400: "q is required"},
    )
    def find(self, request: Request, name: str) -> Response:
        """Return entries of the transcript that contain the words `?q=`, newest first.

        `next` is the next `?cursor=`; null at the end of the transcript. A request that takes long
        ends early: with fewer matches, or none, and a `next`. Texts that are still written are not
        searched.
        """
        lieutenant = check_readable(services.find_any(name), request)
        query = FindQuery.parse(request)
        found = finding.find(
            lieutenant, query["q"] or "", before=query["cursor"], limit=query["limit"]
        )
        matches = [match_json(each) for each in found.excerpts(query["limit"])]
        return Response({"matches": matches, "count": len(matches), "next": found.cursor})

    @action(detail=True, methods=["get"])
    @endpoint(
        query=ExportQuery,
        response=("text/html", "text/markdown", ExportResponse),
        errors={
            **UNREADABLE,
            409: "The agent 'command' exports no session",
            503: "Another session is being exported; try again soon",
        },
    )
    def export(self, request: Request, name: str) -> StreamingHttpResponse:
        """Return the whole transcript as one file: HTML, Markdown or JSON (`?format=`).

        Also of a destroyed lieutenant, by its id. `?format=agent` returns the HTML page that the
        agent's own program makes of its present session.
        """
        lieutenant = check_readable(services.find_any(name), request)
        return export_response(lieutenant, ExportFormat(ExportQuery.parse(request)["format"]))

    @action(detail=True, methods=["get"])
    @endpoint(response=UsagesResponse, errors=UNREADABLE)
    def usage(self, request: Request, name: str) -> Response:
        """Return tokens and cost by day (UTC), newest first, and in total."""
        mine = Usage.objects.filter(lieutenant=check_readable(services.find_any(name), request))
        days = [{"day": str(row["day"]), **usage_json(row)} for row in mine.sums_by_day()]
        return Response({"days": days, "total": usage_json(mine.sums())})

    @action(detail=True, methods=["get"])
    @endpoint(query=StreamQuery, response=EVENT_STREAM, errors=UNREADABLE)
    def stream(self, request: Request, name: str) -> Response:
        """Follow the transcript as server-sent events.

        The edge streams; here it only asks for permission.
        """
        lieutenant = check_readable(services.find_any(name), request)
        return Response({"id": lieutenant.pk, "rev": lieutenant.rev})


class FleetUsage(APIView):
    """`GET /lieutenant/usage`"""

    @endpoint(response=UsagesResponse)
    def get(self, request: Request) -> Response:
        """Return tokens and cost by day (UTC), of all lieutenants that the caller may read."""
        rows = Usage.objects.all()
        line = permissions.readable(request.user, Action.READ_TRANSCRIPT)
        if line is not None:
            rows = rows.filter(lieutenant__in=line.values("vm_id"))
        days = [{"day": str(row["day"]), **usage_json(row)} for row in rows.sums_by_day()]
        return Response({"days": days, "total": usage_json(rows.sums())})
