"""API of changes: `/lieutenant/lieutenants/<name>/changes`."""

from __future__ import annotations

from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from lieutenants import services
from lieutenants.api_base import UNREADABLE, check_readable
from lieutenants.changes import calls
from lieutenants.changes.questions import Question
from lieutenants.changes.serializers import (
    ChangesCallResponse,
    ChangesQuery,
    ChangesResponse,
    FileChangesQuery,
    FileChangesResponse,
)
from lieutenants.models import Lieutenant
from reef_site.common import outside
from reef_site.common.api.endpoints import endpoint
from reef_site.common.errors import BadInput
from reef_site.common.models import OutsideCall
from reef_site.common.outside_answers import RunningCallResponse, api_answer, api_state

# A request waits this long for its result before it is answered with 202.
_WAIT_SECONDS = 1.0
ERRORS = {
    **UNREADABLE,
    409: "/srv/shop is not a git repository, so there is nothing to compare with.",
    503: "The machine cannot be reached: it is being connected",
    504: "git did not answer within 12 s.",
}
RUNNING = {202: RunningCallResponse}


class ChangesActions(ViewSet):
    """Routes of what has changed in a lieutenant's folder."""

    @action(detail=True, methods=["get"])
    @endpoint(query=ChangesQuery, response=ChangesResponse, more_responses=RUNNING, errors=ERRORS)
    def changes(self, request: Request, name: str) -> Response:
        """Return the files in the working folder that differ, as git sees them.

        With `against=start` or `message`, files that were not written since then are left out. A
        worker runs git as the agent's user; if that takes longer than a second, the response is
        202, and `path` has the result later.
        """
        lieutenant = check_readable(services.find_any(name), request)
        return _ask(request, lieutenant, ChangesQuery.parse(request))

    @action(detail=True, methods=["get"], url_path="changes/file", url_name="changes-file")
    @endpoint(
        query=FileChangesQuery, response=FileChangesResponse, more_responses=RUNNING, errors=ERRORS
    )
    def changed_file(self, request: Request, name: str) -> Response:
        """Return how one file (`?path=`) differs, as lines of a unified diff."""
        lieutenant = check_readable(services.find_any(name), request)
        values = FileChangesQuery.parse(request)
        if not values["path"]:
            raise BadInput("path is required", "path")
        return _ask(request, lieutenant, values)

    @action(
        detail=True,
        methods=["get"],
        url_path="changes/calls/(?P<call_id>[^/]+)",
        url_name="changes-call",
    )
    @endpoint(response=ChangesCallResponse, errors={**UNREADABLE, 404: "there is no such call"})
    def changes_call(self, request: Request, name: str, call_id: str) -> Response:
        """Return the result of a reading that was answered with 202."""
        lieutenant = check_readable(services.find_any(name), request)
        row = calls.find(lieutenant, call_id)
        if problem := row.result.get("problem"):
            return Response({"id": row.pk, "state": "failed", "error": problem})
        return api_state(row, _result)


def _ask(request: Request, lieutenant: Lieutenant, values: dict[str, object]) -> Response:
    question = Question(**values)  # type: ignore[arg-type]
    row = calls.ask(lieutenant, question, by=request.user)
    if not row.is_over:
        row = outside.wait(row, _WAIT_SECONDS)
    if problem := row.result.get("problem"):
        return Response({"error": problem}, status=409)
    return api_answer(
        row, f"/lieutenant/lieutenants/{lieutenant.pk}/changes/calls/{row.pk}", _result
    )


def _result(row: OutsideCall) -> dict[str, object]:
    return dict(row.result)
