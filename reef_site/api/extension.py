"""`GET /agent/extension.ts`: the tools of reef for a pi without an MCP client."""

from __future__ import annotations

import hashlib

from django.http import HttpResponse
from django.utils.cache import get_conditional_response
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from lieutenants.agents import extension
from reef_site.common.api.endpoints import endpoint

MEDIA_TYPE = "text/plain; charset=utf-8"
VERSION_HEADER = "Reef-Extension-Version"


class Extension(APIView):
    """`GET /agent/extension.ts`"""

    permission_classes = [IsAuthenticated]

    @endpoint(response="text/plain")
    def get(self, request: Request) -> HttpResponse:
        """Return the extension as TypeScript; it has no secrets.

        Its version is in the header `Reef-Extension-Version`.
        """
        text = extension.text().encode()
        response = HttpResponse(text, content_type=MEDIA_TYPE)
        response[VERSION_HEADER] = extension.version()
        # Clients check on each use; the text changes with reef only.
        response["Cache-Control"] = "no-cache"
        response["ETag"] = f'"{hashlib.sha256(text).hexdigest()[:32]}"'
        conditional = get_conditional_response(
            request._request, response["ETag"], response=response
        )
        return conditional if isinstance(conditional, HttpResponse) else response
