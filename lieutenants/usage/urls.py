"""URLs of the page Usage. (`/usage` is the API.)"""

from __future__ import annotations

from django.urls import path

from lieutenants.usage import views

app_name = "usage"

urlpatterns = [
    path("", views.index, name="index"),
    path("_report", views.report, name="report"),
    path("usage.csv", views.download, name="download"),
]
