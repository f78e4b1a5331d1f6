"""The admin of unknown agents: to be read. Take up and end are on the page of lieutenants."""

from __future__ import annotations

from django.contrib import admin

from lieutenants.unknown_agents.models import UnknownAgent
from reef_site.common.admin import ReadOnlyAdmin


@admin.register(UnknownAgent)
class UnknownAgentAdmin(ReadOnlyAdmin):
    """Agents that run and that nobody follows."""

    list_display = ("run", "name", "host", "why", "request", "problem", "found_at")
    search_fields = ("=run", "=name", "=lieutenant_id")
