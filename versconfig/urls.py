"""URLs of the configuration pages."""

from __future__ import annotations

from django.urls import path, re_path

from versconfig import views

app_name = "versconfig"

urlpatterns = [
    path("", views.index, name="index"),
    path("history/", views.history_page, name="history"),
    re_path(
        r"^history/(?P<version_id>[0-9]{1,18})/(?P<verb>undo|put-back)$",
        views.revert,
        name="go-back",
    ),
    path("<str:name>/", views.one, name="one"),
    path("<str:name>/preview", views.preview, name="preview"),
    path("<str:name>/save", views.save, name="save"),
    path("<str:name>/test", views.check_key, name="test"),
]
