"""All routes: pages for people, the API for agents, `/health` for both. App configurations declare
those of the apps (`reef_site.common.apps`).
"""

from __future__ import annotations

import sys

from django.contrib import admin
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.generic import RedirectView

from reef_site import middleware
from reef_site.access import api as access_api
from reef_site.api.extension import Extension
from reef_site.api.tools import Mcp, ToolCall, Tools
from reef_site.api.views import Schema, browser
from reef_site.common import disk
from reef_site.common.apps import api_routes, page_routes
from reef_site.common.json_format import json_response
from reef_site.dashboard import connect, outside_call_views, overview
from reef_site.health.views import SERVICES, Health
from reef_site.palette import views as palette
from reef_site.pwa import views as pwa

urlpatterns: list[URLPattern | URLResolver] = [
    re_path(r"^health/?$", Health.as_view(), name="health"),
    # Existing clients link to this page.
    re_path(
        r"^ui(?:/.*)?$",
        RedirectView.as_view(pattern_name="overview", http_method_names=["get", "head"]),
    ),
    path("", overview.overview, name="overview"),
    path("parts/", overview.parts, name="parts"),
    path("palette/", palette.entries, name="palette"),
    path("manifest.webmanifest", pwa.manifest, name="manifest"),
    path("service-worker.js", pwa.service_worker, name="service-worker"),
    path("offline/", pwa.offline, name="offline"),
    path("calls/<str:call_id>/", outside_call_views.outside_call, name="outside-call"),
    re_path(r"^connect/?$", connect.connect, name="connect"),
    path("docs/", include("reef_site.docs.urls")),
    path("access/", include("reef_site.access.urls")),
    *page_routes(),
    path("admin/", admin.site.urls),
    # -- agents
    re_path(r"^api/schema/?$", Schema.as_view(), name="api-schema"),
    re_path(r"^api/docs/?$", browser, name="api-docs"),
    *access_api.urlpatterns,
    re_path(r"^tools/?$", Tools.as_view(), name="tools"),
    re_path(r"^tools/(?P<name>[^/]+)/?$", ToolCall.as_view(), name="tool"),
    re_path(r"^mcp/?$", Mcp.as_view(), name="mcp"),
    path("agent/extension.ts", Extension.as_view(), name="extension"),
    *api_routes(),
]


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Respond with a page to people who are signed in, else with JSON."""
    if request.user.is_authenticated and "text/html" in request.headers.get("Accept", ""):
        return render(request, "404.html", status=404)
    return json_response({"error": "not found"}, status=404)


def server_error(request: HttpRequest) -> HttpResponse:
    """Respond to an unexpected error, whose traceback is logged; a full disk gets a 507."""
    if problem := disk.problem_of(sys.exc_info()[1]):
        return middleware.answer_disk_problem(request, problem)
    if "text/html" in request.headers.get("Accept", ""):
        return render(request, "500.html", status=500)
    return json_response({"error": "internal service error"}, status=500)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Respond to requests that Django refuses, for example for an unknown host."""
    if isinstance(exception, DisallowedHost):
        text = "host: is not one of ours; the operator can name it in REEF_ALLOWED_HOSTS"
        return json_response({"error": text}, status=400)
    return json_response({"error": "bad request"}, status=400)


handler404 = "reef_site.urls.not_found"
handler500 = "reef_site.urls.server_error"
handler400 = "reef_site.urls.bad_request"

__all__ = ["SERVICES", "urlpatterns"]
