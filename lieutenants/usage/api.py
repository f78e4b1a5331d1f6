"""API of usage: `GET /usage`."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bootloader.grants import budgets
from bootloader.grants.serializers import budget_json
from lieutenants.usage import tables
from lieutenants.usage.serializers import UsageQuery, UsageReportResponse
from reef_site.common.api.endpoints import endpoint


class UsageReport(APIView):
    """`GET /usage`"""

    @endpoint(
        query=UsageQuery,
        response=UsageReportResponse,
        errors={400: "since: at most 400 days before `until`, by day", 404: "VM not found"},
    )
    def get(self, request: Request) -> Response:
        """Return tokens and cost of the lieutenants that the caller may read.

        Rows by day and hour are the newest first; others begin with the dearest. A subtree is a
        child of `below`, or a root of the tree, with all its descendants.
        """
        found = tables.find(request.user, UsageQuery.parse(request))
        return Response({**found, "budget": budget_json(budgets.tightest_for(request.user))})
