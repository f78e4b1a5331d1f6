"""Read-only admin of the registry; its rows are written by registrations and heartbeats."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet, Value
from django.http import HttpRequest

from reef_site.common import clock
from reef_site.common.admin import ReadOnlyAdmin
from registry import placement
from registry.liveness import Liveness
from registry.models import VM, Gap, Status, VMQuerySet, Watch
from vmtree import names as vm_names

MAX_REFUSALS_SHOWN = 10


class LivenessFilter(admin.SimpleListFilter):
    """Filters by current liveness."""

    title = "liveness"
    parameter_name = "liveness"

    def lookups(self, _request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        return [(str(value), str(label)) for value, label in Liveness.choices]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[VM]) -> QuerySet[VM]:
        assert isinstance(queryset, VMQuerySet)
        wanted = self.value()
        if wanted not in Liveness.values:
            return queryset
        found = queryset.called(Liveness(wanted), clock.now())
        return found.filter(status=Status.RUNNING) if wanted == Liveness.LIVE else found


class PlaceFilter(admin.SimpleListFilter):
    """Filters by whether the VM has a place in the tree."""

    title = "place in the tree"
    parameter_name = "place"

    def lookups(self, _request: HttpRequest, _model_admin: Any) -> list[tuple[str, str]]:
        return [("none", "Not in the tree")]

    def queryset(self, _request: HttpRequest, queryset: QuerySet[VM]) -> QuerySet[VM]:
        assert isinstance(queryset, VMQuerySet)
        return queryset.without_place() if self.value() == "none" else queryset


@admin.register(VM)
class VMAdmin(ReadOnlyAdmin):
    """Registered VMs with their liveness."""

    list_display = (
        "id",
        "shown_name",
        "role",
        "status",
        "liveness_now",
        "last_seen",
        "parent_vm_id",
    )
    list_filter = ("role", "status", LivenessFilter, PlaceFilter)
    search_fields = ("id", "name", "address", "parent_vm_id")
    ordering = ("id",)
    actions = ("put_into_tree",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[VM]:
        vms: QuerySet[VM] = super().get_queryset(request)
        # One query for all rows of a page.
        return vms.annotate(is_forgiven=Value(Watch.grace(clock.now())))

    def has_place_permission(self, request: HttpRequest) -> bool:
        """Require the permission to change the tree."""
        return request.user.has_perm("vmtree.change_node")

    @admin.action(
        description="Place in the tree, below the registered parents",
        permissions=["place"],
    )
    def put_into_tree(self, request: HttpRequest, queryset: QuerySet[VM]) -> None:
        """Place the selected VMs; show a message for each that is refused."""
        vms = list(queryset.order_by("pk")[: placement.BATCH_SIZE])
        placed, refused = placement.place_all(vms, by=request.user)
        for vm, why in refused[:MAX_REFUSALS_SHOWN]:
            self.message_user(request, f"{vm} ({vm.pk}): {why}", messages.ERROR)
        if more := refused[MAX_REFUSALS_SHOWN:]:
            self.message_user(request, f"… and {len(more)} more were refused.", messages.ERROR)
        if placed:
            self.message_user(request, f"Placed {len(placed)} VMs in the tree.", messages.SUCCESS)

    @admin.display(description="name", ordering="name")
    def shown_name(self, vm: VM) -> str:
        return vm_names.marked(vm.name)

    @admin.display(description="liveness")
    def liveness_now(self, vm: Any) -> str:
        """Show live, late or silent; of a VM that is not running, its status."""
        if vm.status != Status.RUNNING:
            return str(vm.get_status_display())
        return str(vm.liveness(clock.now(), grace=vm.is_forgiven).label)


@admin.register(Gap)
class GapAdmin(ReadOnlyAdmin):
    """Periods without a heartbeat."""

    list_display = ("vm_id", "status", "began_at", "ended_at")
    list_filter = ("status",)
    search_fields = ("vm_id",)
    ordering = ("-ended_at",)


@admin.register(Watch)
class WatchAdmin(ReadOnlyAdmin):
    """Since when reef itself has been able to receive heartbeats."""

    list_display = ("up_since", "ticked_at", "door_at")
