"""Routes of the lieutenants' API."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, include, path, re_path
from rest_framework.routers import SimpleRouter

from lieutenants import api
from lieutenants.hosts import api as hosts_api
from lieutenants.questions import api as questions_api
from lieutenants.transcript import api as transcript_api
from lieutenants.unknown_agents import api as unknown_agents_api
from lieutenants.usage import api as usage_api

router = SimpleRouter()
# A trailing slash is optional.
router.trailing_slash = "/?"
router.register("lieutenant/lieutenants", api.LieutenantViewSet, basename="lieutenant")

urlpatterns: list[URLPattern | URLResolver] = [
    re_path(r"^lieutenant/_panel/?$", api.Panel.as_view(), name="lieutenant-panel"),
    re_path(r"^usage/?$", usage_api.UsageReport.as_view(), name="usage-report"),
    re_path(r"^lieutenant/usage/?$", transcript_api.FleetUsage.as_view()),
    re_path(r"^lieutenant/lieutenants/destroy-all/?$", api.DestroyAll.as_view()),
    re_path(r"^lieutenant/lieutenants/discover/?$", api.Discover.as_view()),
    re_path(
        r"^lieutenant/lieutenants/(?P<name>[^/]+)/next-sign/?$",
        api.NextSign.as_view(),
        name="lieutenant-next-sign",
    ),
    re_path(r"^lieutenant/hosts/?$", hosts_api.Hosts.as_view()),
    re_path(r"^lieutenant/hosts/(?P<name>[^/]+)/adopt/?$", hosts_api.Adopt.as_view()),
    *unknown_agents_api.urlpatterns,
    *questions_api.urlpatterns,
    path("", include(router.urls)),
    re_path(r"^lieutenant(?:/.*)?$", api.UnknownPath.as_view()),
]
