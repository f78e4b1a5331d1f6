"""Read-only admin of unknown agents. The page of lieutenants has the actions."""

from __future__ import annotations

from django.contrib import admin

from lieutenants.admin import FactAdmin
from lieutenants.unknown_agents.models import UnknownAgent


@admin.register(UnknownAgent)
class UnknownAgentAdmin(FactAdmin):
    """Agents that run without being followed."""

    list_display = ("run", "name", "host", "why", "request", "problem", "found_at")
    list_select_related = False
    search_fields = ("=run", "=name", "=lieutenant_id")
