"""Read-only admin of unknown agents. The page of lieutenants has the actions."""

from __future__ import annotations

from django.contrib import admin

from lieutenants.unknown_agents.models import UnknownAgent
from reef_site.common.admin import ReadOnlyAdmin


@admin.register(UnknownAgent)
class UnknownAgentAdmin(ReadOnlyAdmin):
    """Agents that run without being followed."""

    list_display = ("run", "name", "host", "why", "request", "problem", "found_at")
    search_fields = ("=run", "=name", "=lieutenant_id")
