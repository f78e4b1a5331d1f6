"""Read-only admin of the event log."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from reef_site.common.admin import ReadOnlyAdmin
from reef_site.common.eventlog.models import Event


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("id", "at", "kind", "subject", "vm_id", "actor")
    list_filter = ("topic", "at")
    search_fields = ("=subject", "=vm_id", "=actor", "=kind")
    search_help_text = "A subject, VM id, actor or kind."
    ordering = ("-id",)

    def has_view_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        """Return whether the user is an operator: refusals and config are among the events."""
        return bool(request.user.is_active and request.user.is_superuser)
