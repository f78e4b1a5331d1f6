"""The schema of the API, the page that shows it, and the stream of events."""

from __future__ import annotations

import functools
from typing import Any

from django.contrib.auth.decorators import login_required
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from lieutenants.states import Status
from reef_site.common.api.endpoints import endpoint


class Schema(SpectacularAPIView):
    """`GET /api/schema`: YAML, or with `?format=json` JSON. For accounts and every valid token."""

    content_negotiation_class = DefaultContentNegotiation

    def _get_schema_response(self, request: Request) -> Response:
        return Response(_schema())


class Browser(SpectacularSwaggerSplitView):
    """`/api/docs`: the schema as a page; assets and script come from our own host."""

    content_negotiation_class = DefaultContentNegotiation
    url_name = "api-schema"


class FleetEvents(APIView):
    """`GET /events`: checks the caller for the edge, which then streams in place of the response
    here.
    """

    @endpoint(response="text/event-stream")
    def get(self, request: Request) -> Response:
        """Stream which lieutenants, VMs and provisionings have changed, as server-sent events."""
        return Response({"statuses": Status.values})


@functools.cache
def _schema() -> Any:
    generator = SchemaGenerator()  # type: ignore[no-untyped-call]
    return generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]


browser = login_required(Browser.as_view())
