"""Pages of versconfig."""

from __future__ import annotations

from django.urls import URLPattern

app_name = "versconfig"
urlpatterns: list[URLPattern] = []
