"""The admin of grants."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from bootloader.boot import profiles
from bootloader.grants import budgets
from bootloader.grants.serializers import GrantBody
from bootloader.models import ProvisionGrant
from reef_site.common.admin import BodyForm, ModelAdmin, add_actions
from vmtree.models import Node


def _choices() -> list[tuple[str, str]]:
    return [(kind, kind) for kind in profiles.types()]


class GrantForm(BodyForm[ProvisionGrant]):
    """A grant with checkboxes for the profiles."""

    body = GrantBody

    profiles = forms.MultipleChoiceField(
        required=False,
        choices=_choices,
        widget=forms.CheckboxSelectMultiple,
        help_text="Choose none to allow all.",
    )
    renew_dollars = forms.BooleanField(
        required=False,
        label="Begin the budget anew",
        help_text="Otherwise what was spent since it was first set still counts.",
    )

    class Meta:
        model = ProvisionGrant
        fields = (
            *("node", "vms", "profiles", "levels"),
            *("lieutenants", "lieutenant_levels", "dollars"),
        )


@admin.register(ProvisionGrant)
class ProvisionGrantAdmin(ModelAdmin[ProvisionGrant]):
    """Admin of grants: limits on what nodes may create with their own tokens."""

    form = GrantForm
    list_display = (
        *("node", "vms", "kinds", "levels"),
        *("lieutenants", "lieutenant_levels", "dollars", "dollars_since"),
    )
    list_select_related = ("node",)
    raw_id_fields = ("node",)
    search_fields = ("=node__vm_id", "node__name")
    ordering = ("node",)

    def get_readonly_fields(self, _request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Make the node of an existing grant read-only."""
        return ("node",) if obj else ()

    def save_model(
        self, request: HttpRequest, obj: ProvisionGrant, form: Any, change: bool
    ) -> None:
        """Save the grant; a budget begins now if it is new or renewed."""
        old = ProvisionGrant.objects.filter(pk=obj.pk).first()
        renew = form.cleaned_data["renew_dollars"]
        for name, value in budgets.fields_of(old, obj.dollars, renew=renew).items():
            setattr(obj, name, value)
        super().save_model(request, obj, form, change)

    @admin.display(description="profiles")
    def kinds(self, row: ProvisionGrant) -> str:
        """Return the allowed profile types."""
        return ", ".join(row.profiles) or "all"


@admin.action(description="Grant provisioning …")
def grant_provisioning(
    _admin: Any, _request: HttpRequest, queryset: QuerySet[Node]
) -> HttpResponse:
    """Open the grant form of the first selected node."""
    node = queryset.order_by("pk").first()
    if node is None or ProvisionGrant.objects.filter(pk=node.pk).exists():
        args = [node.pk] if node else []
        page = "change" if node else "changelist"
        return HttpResponseRedirect(reverse(f"admin:bootloader_provisiongrant_{page}", args=args))
    new = reverse("admin:bootloader_provisiongrant_add")
    return HttpResponseRedirect(f"{new}?{urlencode({'node': node.pk})}")


add_actions(Node, grant_provisioning)
