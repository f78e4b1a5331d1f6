"""Read-only admin of subscribers and deliveries; the page "Events" changes them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from reef_site.activity.models import Delivery, Subscriber
from reef_site.common.admin import ReadOnlyAdmin


class OperatorsAdmin(ReadOnlyAdmin):
    """Rows that only operators may see."""

    def has_view_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        return bool(request.user.is_active and request.user.is_superuser)


@admin.register(Subscriber)
class SubscriberAdmin(OperatorsAdmin):
    list_display = ("name", "channel", "address", "is_active", "position", "failures", "retry_at")
    list_filter = ("channel", "is_active")
    search_fields = ("name",)


@admin.register(Delivery)
class DeliveryAdmin(OperatorsAdmin):
    list_display = ("id", "subscriber", "event_number", "kind", "state", "attempts", "due_at")
    list_filter = ("state", "subscriber")
    list_select_related = ("subscriber",)
    search_fields = ("=kind", "=event_number")
