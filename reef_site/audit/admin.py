"""Read-only admin of the audit log."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from reef_site.audit.models import Record
from reef_site.common.admin import ReadOnlyAdmin


@admin.register(Record)
class RecordAdmin(ReadOnlyAdmin):
    """Records are read only."""

    list_display = (
        *("at", "actor", "action", "target", "address", "route", "status", "permission", "reason"),
        "count",
    )
    list_filter = ("action", "actor_kind", "at")
    search_fields = ("=actor", "=address", "target")
    search_help_text = "A name, an address, or a part of a target."
    ordering = ("-id",)

    def has_view_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        """Return whether the user is an operator; the log contains everybody's actions."""
        return bool(request.user.is_active and request.user.is_superuser)
