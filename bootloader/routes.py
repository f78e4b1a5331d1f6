"""API routes of the bootloader."""

from __future__ import annotations

from django.urls import URLPattern

from bootloader import grant_api, joining_api, provision_api, script_api

urlpatterns: list[URLPattern] = [
    *joining_api.urlpatterns,
    *provision_api.urlpatterns,
    *grant_api.urlpatterns,
    *script_api.urlpatterns,
]
