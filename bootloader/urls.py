"""Pages of the bootloader."""

from __future__ import annotations

from django.urls import URLPattern

app_name = "bootloader"
urlpatterns: list[URLPattern] = []
