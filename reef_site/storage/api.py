"""API of storage for operators: `/storage`."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.common import outside
from reef_site.common.api.endpoints import endpoint
from reef_site.common.errors import NotFound
from reef_site.common.models import OutsideCall
from reef_site.common.outside_answers import RunningCallResponse, api_answer, api_state
from reef_site.storage import measuring
from reef_site.storage.reports import make_report
from reef_site.storage.serializers import MeasurementCallResponse, StorageResponse, storage_json
from vmtree import permissions
from vmtree.permissions import Action

FORBIDDEN = {403: f"rule: {permissions.RULE}. vm-7 may not command the whole fleet"}


class Storage(APIView):
    """`GET /storage`"""

    checks_permission = True

    @endpoint(response=StorageResponse, errors=FORBIDDEN)
    def get(self, request: Request) -> Response:
        """Return what takes how much room, as it was measured last, and how long it is kept."""
        permissions.check(request.user, Action.COMMAND, None)
        return Response(storage_json(make_report()))


class Measure(APIView):
    """`POST /storage/measure`"""

    checks_permission = True

    @endpoint(response=StorageResponse, more_responses={202: RunningCallResponse}, errors=FORBIDDEN)
    def post(self, request: Request) -> Response:
        """Measure the database and the data folders now. Those of other hosts take longer."""
        permissions.check(request.user, Action.COMMAND, None)
        row = measuring.measure_now(by=request.user)
        return api_answer(row, f"/storage/calls/{row.pk}", _result)


class MeasurementCall(APIView):
    """`GET /storage/calls/<id>`"""

    checks_permission = True

    @endpoint(response=MeasurementCallResponse, errors={**FORBIDDEN, 404: "there is no such call"})
    def get(self, request: Request, call_id: str) -> Response:
        """Return the result of a measurement that was answered with 202."""
        permissions.check(request.user, Action.COMMAND, None)
        row = outside.find(call_id, measuring.MEASURE)
        if row is None:
            raise NotFound("there is no such call")
        return api_state(row, _result)


def _result(_row: OutsideCall) -> dict[str, Any]:
    return storage_json(make_report())
