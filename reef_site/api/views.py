"""The schema of the API, and the page that shows it."""

from __future__ import annotations

import functools
from typing import Any

from django.contrib.auth.decorators import login_required
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response


class Schema(SpectacularAPIView):
    """`GET /api/schema`: YAML, or with `?format=json` JSON. For accounts and every valid token."""

    content_negotiation_class = DefaultContentNegotiation

    def _get_schema_response(self, request: Request) -> Response:
        return Response(_schema())


class Browser(SpectacularSwaggerSplitView):
    """`/api/docs`: the schema as a page; assets and script come from our own host."""

    content_negotiation_class = DefaultContentNegotiation
    url_name = "api-schema"


@functools.cache
def _schema() -> Any:
    generator = SchemaGenerator()  # type: ignore[no-untyped-call]
    return generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]


browser = login_required(Browser.as_view())
