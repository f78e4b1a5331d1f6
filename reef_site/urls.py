"""All routes: pages for people, the API for agents, `/health` for both."""

from __future__ import annotations

import sys

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.generic import RedirectView

from lieutenants import api as lieutenants_api
from lieutenants.hosts import api as hosts_api
from lieutenants.hosts import views as hosts
from lieutenants.unknown_agents import api as unknown_agents_api
from reef_site import middleware
from reef_site.accounts import views as accounts
from reef_site.api.router import router
from reef_site.api.views import Schema, browser
from reef_site.attention import views as attention
from reef_site.audit import views as audit
from reef_site.common import disk
from reef_site.common.json_format import json_response
from reef_site.dashboard import outside_call_views, overview
from reef_site.health.views import SERVICES, health
from registry.rules import api as rules_api
from vmtree import api as vmtree_api
from vmtree.operations import api as operations_api

Routes = list[URLPattern | URLResolver]


def _with(organ: str, *routes: URLPattern | URLResolver) -> Routes:
    """Return these routes if this reef has the organ."""
    return list(routes) if organ in settings.ORGANS else []


urlpatterns: Routes = [
    re_path(r"^health/?$", health, name="health"),
    # Existing clients link to this page.
    re_path(
        r"^ui(?:/.*)?$",
        RedirectView.as_view(pattern_name="overview", http_method_names=["get", "head"]),
    ),
    path("", overview.overview, name="overview"),
    path("parts/", overview.parts, name="parts"),
    path("attention/seen", attention.mark, name="attention-seen"),
    path("calls/<str:call_id>/", outside_call_views.outside_call, name="outside-call"),
    path("signin/", accounts.signin, name="signin"),
    path("signin/again/", accounts.again, name="signin-again"),
    path("signin/<str:secret>", accounts.signin_link, name="signin-link"),
    path("signout/", accounts.signout, name="signout"),
    path("audit/", audit.index, name="audit"),
    path("docs/", include("reef_site.docs.urls")),
    *_with("lieutenant", path("lieutenants/", include("lieutenants.urls"))),
    *_with("lieutenant", path("hosts/", hosts.index, name="lieutenant-hosts")),
    *_with(
        "lieutenant", path("hosts/<str:name>/adopt", hosts.adopt, name="lieutenant-hosts-adopt")
    ),
    *_with("vm-tree", path("fleet/", include("reef_site.dashboard.urls"))),
    *_with("vers-config", path("config/", include("versconfig.urls"))),
    *_with("bootloader", path("provisioning/", include("bootloader.urls"))),
    path("admin/login/", accounts.admin_login),
    path("admin/", admin.site.urls),
    # -- agents
    re_path(r"^api/schema/?$", Schema.as_view(), name="api-schema"),
    re_path(r"^api/docs/?$", browser, name="api-docs"),
    re_path(r"^events/?$", lieutenants_api.ListingEvents.as_view(), name="events"),
    *_with(
        "lieutenant",
        re_path(r"^lieutenant/_panel/?$", lieutenants_api.Panel.as_view(), name="lieutenant-panel"),
        re_path(r"^lieutenant/usage/?$", lieutenants_api.FleetUsage.as_view()),
        re_path(r"^lieutenant/lieutenants/destroy-all/?$", lieutenants_api.DestroyAll.as_view()),
        re_path(r"^lieutenant/lieutenants/discover/?$", lieutenants_api.Discover.as_view()),
        re_path(r"^lieutenant/hosts/?$", hosts_api.Hosts.as_view()),
        re_path(r"^lieutenant/hosts/(?P<name>[^/]+)/adopt/?$", hosts_api.Adopt.as_view()),
        *rules_api.urlpatterns,
        *unknown_agents_api.urlpatterns,
    ),
    *_with("registry", re_path(r"^registry(?:/|$)", include("registry.routes"))),
    *_with("vers-config", re_path(r"^vers-config(?:/|$)", include("versconfig.routes"))),
    *_with("bootloader", re_path(r"^bootloader(?:/|$)", include("bootloader.routes"))),
    *_with(
        "lieutenant",
        path("", include(router.urls)),
        re_path(r"^lieutenant(?:/.*)?$", lieutenants_api.UnknownPath.as_view()),
        *operations_api.urlpatterns,
    ),
    *_with("vm-tree", *vmtree_api.urlpatterns),
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
