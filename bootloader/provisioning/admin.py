"""The admin of provisionings, machines and findings: read-only rows, with actions that call
services.
"""

from __future__ import annotations

from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html

from bootloader import outside_calls
from bootloader.inventory import reconcile
from bootloader.models import BootStep, Finding, LogLine, Machine, Provisioning
from bootloader.provisioning import services
from bootloader.states import CleanupPolicy
from reef_site.common.admin import (
    ModelAdmin,
    ReadOnlyAdmin,
    RecentValuesFilter,
    add_actions,
    apply_to_each,
)
from reef_site.common.outside_answers import page_answer
from reef_site.common.text import first_line, first_words
from vmtree import permissions
from vmtree.models import Node

COMMAND = "bootloader.change_provisioning"
_MAX_TEXT = 100


@admin.register(Provisioning)
class ProvisioningAdmin(ReadOnlyAdmin):
    """VMs that are being provisioned."""

    list_display = ("name", "state", "why", "profile", "provider", "vm", "actor", "created_at")
    list_filter = (
        "state",
        ("profile", RecentValuesFilter),
        ("provider", RecentValuesFilter),
        "created_at",
    )
    search_fields = ("=id", "name", "=vm_id", "=batch", "=actor")
    list_select_related = ("machine",)
    exclude = ("script", "user_data")
    command_permission = COMMAND
    actions = ("retry", "cancel_keep", "cancel_delete")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provisioning]:
        """Leave out the large text columns."""
        return Provisioning.objects.without_texts().order_by("-id")

    def view_on_site(self, obj: Provisioning) -> str:
        """Link to the provisioning's own page."""
        return reverse("bootloader:detail", args=[obj.pk])

    @admin.display(description="VM")
    def vm(self, row: Provisioning) -> str:
        """Return the machine's id, marked if it is gone."""
        if row.machine is None:
            return "—"
        return f"{row.machine.machine_id}{' (gone)' if row.machine.is_gone else ''}"

    @admin.display(description="reason")
    def why(self, row: Provisioning) -> str:
        """Return the first line of the reason."""
        return first_line(row.reason, _MAX_TEXT)

    @admin.action(description="Retry from the failed step", permissions=["command"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Provisioning]) -> None:
        """Continue from the failed step."""
        apply_to_each(
            self,
            request,
            queryset.order_by("pk"),
            lambda row: services.retry(row.pk, by=request.user).state,
        )

    @admin.action(description="Cancel, keep the VM", permissions=["command"])
    def cancel_keep(self, request: HttpRequest, queryset: QuerySet[Provisioning]) -> None:
        """Cancel and keep the VMs."""
        self._cancel(request, queryset, CleanupPolicy.KEEP)

    @admin.action(description="Cancel, delete the VM", permissions=["command"])
    def cancel_delete(self, request: HttpRequest, queryset: QuerySet[Provisioning]) -> None:
        """Cancel and delete the VMs."""
        self._cancel(request, queryset, CleanupPolicy.DELETE)

    def _cancel(
        self, request: HttpRequest, queryset: QuerySet[Provisioning], cleanup: CleanupPolicy
    ) -> None:
        by = request.user
        apply_to_each(
            self,
            request,
            queryset.order_by("pk"),
            lambda row: services.cancel(row.pk, cleanup, by=by).state,
        )


@admin.register(BootStep)
class StepAdmin(ReadOnlyAdmin):
    """Steps of provisionings."""

    list_display = ("provisioning", "name", "state", "why", "attempts", "took", "ended_at")
    list_filter = ("state", "name")
    search_fields = ("=provisioning__id", "=provisioning__name")
    list_select_related = ("provisioning",)
    ordering = ("-provisioning_id", "position")

    @admin.display(description="reason")
    def why(self, row: BootStep) -> str:
        """Return the first line of the reason."""
        return first_line(row.reason, _MAX_TEXT)

    @admin.display(description="seconds")
    def took(self, row: BootStep) -> str:
        """Return the duration."""
        return "" if row.seconds is None else f"{row.seconds:.1f}"


@admin.register(LogLine)
class LogLineAdmin(ReadOnlyAdmin):
    """Log lines of provisionings."""

    list_display = ("at", "provisioning", "step", "kind", "head")
    list_filter = ("kind", ("step", RecentValuesFilter), "at")
    search_fields = ("text", "=provisioning__id", "=provisioning__name")
    list_select_related = ("provisioning",)
    ordering = ("-id",)

    @admin.display(description="text")
    def head(self, row: LogLine) -> str:
        """Return the beginning of the text, as one line."""
        return first_words(row.text, _MAX_TEXT)


@admin.register(Machine)
class MachineAdmin(ReadOnlyAdmin):
    """VMs as listed by their providers."""

    list_display = ("machine_id", "name", "provider", "state", "in_tree", "seen_at", "gone_at")
    list_filter = (
        ("provider", RecentValuesFilter),
        ("state", RecentValuesFilter),
        "mine",
        "known_since",
    )
    search_fields = ("=machine_id", "=vm_id", "name")
    ordering = ("-id",)

    @admin.display(description="in the tree", ordering="vm_id")
    def in_tree(self, row: Machine) -> str:
        """Return a link to the VM in the tree."""
        if not row.vm_id:
            return "—"
        if "vm-tree" not in settings.ORGANS:
            return row.vm_id
        url = f"{reverse('fleet:by-id')}?{urlencode({'vm': row.vm_id})}"
        return format_html('<a href="{}">{}</a>', url, row.vm_id)


@admin.register(Finding)
class FindingAdmin(ReadOnlyAdmin):
    """Differences between provider, tree and registry."""

    list_display = ("__str__", "text", "proposal", "state", "found_at", "outcome", "decided_by")
    list_filter = ("state", "kind", ("provider", RecentValuesFilter), "found_at")
    search_fields = ("=machine_id", "=vm_id", "name")
    ordering = ("-id",)
    command_permission = COMMAND
    actions = ("act", "dismiss")

    @admin.action(description="Apply the proposed action", permissions=["command"])
    def act(self, request: HttpRequest, queryset: QuerySet[Finding]) -> HttpResponse:
        """Carry out the proposal of each finding. A worker does it."""
        permissions.check(request.user, "command", None)
        call = outside_calls.act_on_many(list(queryset), None, by=request.user)
        return page_answer(request, call, request.get_full_path())

    @admin.action(description="Dismiss selected findings", permissions=["command"])
    def dismiss(self, request: HttpRequest, queryset: QuerySet[Finding]) -> None:
        """Leave them as they are; they are not reported again while the difference lasts."""
        by = request.user
        apply_to_each(
            self,
            request,
            queryset.order_by("pk"),
            lambda row: reconcile.dismiss(row.pk, by=by).outcome,
        )


@admin.action(description="Provision a VM below …")
def provision_below(
    _admin: ModelAdmin[Node], _request: HttpRequest, queryset: QuerySet[Node]
) -> HttpResponse:
    """Open the form with the first selected node as the parent."""
    node = queryset.order_by("pk").first()
    query = urlencode({"parent_vm_id": node.vm_id if node else ""})
    return HttpResponseRedirect(f"{reverse('bootloader:create')}?{query}")


add_actions(Node, provision_below)
