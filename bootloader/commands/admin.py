"""Read-only admin of the commands on machines."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from bootloader.models import MachineCommand
from reef_site.common.admin import ReadOnlyAdmin


@admin.register(MachineCommand)
class MachineCommandAdmin(ReadOnlyAdmin):
    """Commands are run and cancelled on their own pages."""

    list_display = ("asked_at", "actor", "place", "command", "state", "exit_status", "note")
    list_filter = ("state", "asked_at")
    search_fields = ("=actor", "place", "=vm_id", "command")
    search_help_text = "A name, a VM id, or a part of a command."
    ordering = ("-id",)

    def has_view_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        """Return whether the user is an operator."""
        return bool(request.user.is_active and request.user.is_superuser)
