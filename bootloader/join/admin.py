"""Read-only admin of join tokens, rejected joins and boot reports."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from bootloader.join import tokens as join_tokens
from bootloader.models import BootReport, JoinRefusal, JoinToken
from bootloader.provisioning.admin import COMMAND
from reef_site.common import clock
from reef_site.common.admin import ReadOnlyAdmin, RecentValuesFilter


@admin.register(JoinToken)
class JoinTokenAdmin(ReadOnlyAdmin):
    """Join tokens. The secrets themselves are not stored."""

    list_display = ("vm_id", "name", "profile", "now", "made_at", "made_by", "used_at", "used_by")
    list_filter = (("profile", RecentValuesFilter), "category", "role")
    search_fields = ("=vm_id", "name")
    command_permission = COMMAND
    actions = ("void",)

    @admin.display(description="state")
    def now(self, row: JoinToken) -> str:
        """Return the token's state."""
        return row.state(clock.now())

    @admin.action(description="Revoke unused tokens", permissions=["command"])
    def void(self, request: HttpRequest, queryset: QuerySet[JoinToken]) -> None:
        """Void the unused tokens among the selected ones."""
        count = sum(
            join_tokens.revoke_unused(vm_id)
            for vm_id in set(queryset.values_list("vm_id", flat=True))
        )
        self.message_user(request, f"{count} join tokens were revoked.", messages.SUCCESS)


@admin.register(JoinRefusal)
class JoinRefusalAdmin(ReadOnlyAdmin):
    """Rejected join attempts."""

    list_display = ("why", "vm", "text", "remote", "count", "first_at", "last_at")
    list_filter = ("why",)
    list_select_related = ("token",)
    search_fields = ("=token__vm_id", "=remote")

    @admin.display(description="meant for")
    def vm(self, row: JoinRefusal) -> str:
        """Return the VM that the token was issued for."""
        return row.token.vm_id if row.token else "—"


@admin.register(BootReport)
class BootReportAdmin(ReadOnlyAdmin):
    """Steps of boot scripts."""

    list_display = ("vm_id", "run", "step", "status", "duration_ms", "exit_status", "at")
    list_filter = ("status", ("step", RecentValuesFilter))
    search_fields = ("=vm_id", "=run")
    fields = (
        *("vm_id", "run", "step", "status", "duration_ms", "exit_status"),
        *("began_at", "at", "said"),
    )
    readonly_fields = ("said",)

    @admin.display(description="output")
    def said(self, row: BootReport) -> str:
        """Return the output with its line breaks."""
        return format_html("<pre>{}</pre>", row.output)
