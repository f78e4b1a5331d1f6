"""The admin of provisionings, machines, findings: read all, ask services for what is done."""

from __future__ import annotations

from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html

from bootloader import outside_calls, reconcile
from bootloader.models import BootStep, Finding, LogLine, Machine, Provisioning
from bootloader.provisioning import services
from bootloader.states import Leftover
from reef_site.common.admin import ModelAdmin, ReadOnlyAdmin, add_actions, apply_to_each
from reef_site.common.outside_answers import page_answer
from reef_site.common.text import first_line, first_words
from vmtree import authority
from vmtree.models import Node

COMMAND = "bootloader.change_provisioning"
_MAX_TEXT = 100


@admin.register(Provisioning)
class ProvisioningAdmin(ReadOnlyAdmin):
    """VMs that come up."""

    list_display = ("name", "state", "why", "profile", "provider", "vm", "actor", "created_at")
    list_filter = ("state", "profile", "provider", "created_at")
    search_fields = ("=id", "name", "=vm_id", "=batch", "=actor")
    list_select_related = ("machine",)
    date_hierarchy = "created_at"
    exclude = ("script", "user_data")
    command_permission = COMMAND
    actions = ("retry", "cancel_keep", "cancel_delete")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provisioning]:
        """Without the long texts."""
        return Provisioning.objects.light().order_by("-id")

    def view_on_site(self, obj: Provisioning) -> str:
        """Its own page."""
        return reverse("bootloader:detail", args=[obj.pk])

    @admin.display(description="VM")
    def vm(self, row: Provisioning) -> str:
        """The machine, and what became of it."""
        if row.machine is None:
            return "—"
        return f"{row.machine.machine_id}{' (gone)' if row.machine.is_gone else ''}"

    @admin.display(description="reason")
    def why(self, row: Provisioning) -> str:
        """The reason's first line."""
        return first_line(row.reason, _MAX_TEXT)

    @admin.action(description="Retry from the failed step", permissions=["command"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Provisioning]) -> None:
        """Go on where they failed."""
        apply_to_each(
            self,
            request,
            queryset.order_by("pk"),
            lambda row: services.retry(row.pk, by=request.user).state,
        )

    @admin.action(description="Cancel, keep the VM", permissions=["command"])
    def cancel_keep(self, request: HttpRequest, queryset: QuerySet[Provisioning]) -> None:
        """End them; what they made stays."""
        self._cancel(request, queryset, Leftover.KEEP)

    @admin.action(description="Cancel, delete the VM", permissions=["command"])
    def cancel_delete(self, request: HttpRequest, queryset: QuerySet[Provisioning]) -> None:
        """End them, and delete what they made."""
        self._cancel(request, queryset, Leftover.DELETE)

    def _cancel(
        self, request: HttpRequest, queryset: QuerySet[Provisioning], leftover: Leftover
    ) -> None:
        by = request.user
        apply_to_each(
            self,
            request,
            queryset.order_by("pk"),
            lambda row: services.cancel(row.pk, leftover, by=by).state,
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
        """The reason's first line."""
        return first_line(row.reason, _MAX_TEXT)

    @admin.display(description="seconds")
    def took(self, row: BootStep) -> str:
        """How long it took."""
        return "" if row.seconds is None else f"{row.seconds:.1f}"


@admin.register(LogLine)
class LogLineAdmin(ReadOnlyAdmin):
    """What was done and said while VMs came up."""

    list_display = ("at", "provisioning", "step", "kind", "head")
    list_filter = ("kind", "step", "at")
    search_fields = ("text", "=provisioning__id", "=provisioning__name")
    list_select_related = ("provisioning",)
    ordering = ("-id",)

    @admin.display(description="text")
    def head(self, row: LogLine) -> str:
        """Its first words."""
        return first_words(row.text, _MAX_TEXT)


@admin.register(Machine)
class MachineAdmin(ReadOnlyAdmin):
    """VMs as their providers have them."""

    list_display = ("machine_id", "name", "provider", "state", "in_tree", "seen_at", "gone_at")
    list_filter = ("provider", "state", "mine", "known_since")
    search_fields = ("=machine_id", "=vm_id", "name")
    ordering = ("-id",)

    @admin.display(description="in the tree", ordering="vm_id")
    def in_tree(self, row: Machine) -> str:
        """The way to its place."""
        if not row.vm_id:
            return "—"
        if "vm-tree" not in settings.ORGANS:
            return row.vm_id
        url = f"{reverse('fleet:by-id')}?{urlencode({'vm': row.vm_id})}"
        return format_html('<a href="{}">{}</a>', url, row.vm_id)


@admin.register(Finding)
class FindingAdmin(ReadOnlyAdmin):
    """What does not fit together."""

    list_display = ("__str__", "text", "proposal", "state", "found_at", "outcome", "decided_by")
    list_filter = ("state", "kind", "provider", "found_at")
    search_fields = ("=machine_id", "=vm_id", "name")
    ordering = ("-id",)
    command_permission = COMMAND
    actions = ("act", "dismiss")

    @admin.action(description="Do what is proposed", permissions=["command"])
    def act(self, request: HttpRequest, queryset: QuerySet[Finding]) -> HttpResponse:
        """What each one proposes; a worker does it."""
        authority.check(request.user, "command", None)
        call = outside_calls.act_on_many(list(queryset), None, by=request.user)
        return page_answer(request, call, request.get_full_path())

    @admin.action(description="Leave it as it is", permissions=["command"])
    def dismiss(self, request: HttpRequest, queryset: QuerySet[Finding]) -> None:
        """They are not brought up again while they are so."""
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
    """The form, filled in with the first of the selected ones as the parent."""
    node = queryset.order_by("pk").first()
    asked = urlencode({"parent_vm_id": node.vm_id if node else ""})
    return HttpResponseRedirect(f"{reverse('bootloader:create')}?{asked}")


add_actions(Node, provision_below)
