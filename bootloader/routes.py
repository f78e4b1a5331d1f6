"""API routes of the bootloader."""

from __future__ import annotations

from django.urls import URLPattern

from bootloader.boot import api as boot_api
from bootloader.commands import api as commands_api
from bootloader.grants import api as grants_api
from bootloader.join import api as join_api
from bootloader.provisioning import api as provisioning_api

urlpatterns: list[URLPattern] = [
    *join_api.urlpatterns,
    *provisioning_api.urlpatterns,
    *grants_api.urlpatterns,
    *boot_api.urlpatterns,
    *commands_api.urlpatterns,
]
