"""The agents' routes of the bootloader."""

from __future__ import annotations

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
