"""Routes of versconfig's API."""

from __future__ import annotations

from django.urls import re_path

from versconfig import api

urlpatterns = [
    re_path(r"^$", api.Overview.as_view(), name="vers-config"),
    re_path(r"^keys/?$", api.Keys.as_view()),
    re_path(r"^settings/?$", api.Settings.as_view()),
    re_path(r"^history/?$", api.History.as_view()),
    re_path(r"^history/(?P<version_id>[0-9]{1,18})/undo/?$", api.Undo.as_view()),
    re_path(r"^history/(?P<version_id>[0-9]{1,18})/put-back/?$", api.PutBack.as_view()),
    re_path(r"^resolve/(?P<name>[^/]+)/?$", api.Resolve.as_view()),
    re_path(r"^explain/(?P<name>[^/]+)/?$", api.Explain.as_view()),
    re_path(r"^tests/(?P<call_id>[0-9a-f]{1,32})/?$", api.TestResult.as_view()),
    re_path(r"^test/(?P<name>[^/]+)/?$", api.Test.as_view()),
    re_path(r"^(?P<name>[^/]+)/?$", api.KeyDetail.as_view(), name="vers-config-key"),
    re_path(r"^.*$", api.UnknownPath.as_view()),
]
