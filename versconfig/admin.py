"""Admin of configuration.

Settings are changed through `services`; versions are read-only. Secrets are never shown, and text
typed into a secret's field is never sent back.
"""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, QueryDict
from django.urls import reverse
from django.utils.html import format_html

from reef_site.common.admin import ModelAdmin, ModelForm, ReadOnlyAdmin, apply_to_each
from reef_site.common.errors import ReefError
from versconfig import keys, services
from versconfig.models import Scope, Setting, Version
from versconfig.scopes import Target
from versconfig.services import SettingChange
from vmtree.models import Category


class SettingForm(ModelForm[Setting]):
    """A value for a key and a scope, with the same checks as the service."""

    key = forms.ChoiceField(choices=[(name, name) for name in keys.ALL])
    value = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3, "autocomplete": "off", "spellcheck": "false"}),
        help_text="Stored secrets are not shown. Leave empty to keep the stored value.",
        required=False,
        strip=True,
    )

    change: SettingChange | None = None

    class Meta:
        model = Setting
        fields = ("key", "scope", "node")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial.setdefault("value", self.instance.clear)

    def full_clean(self) -> None:
        """Remove the typed secret when a form with errors is shown again."""
        super().full_clean()
        name = self.data.get("key", self.instance.key)
        if self.errors and (name not in keys.ALL or keys.ALL[name].secret):
            blank: Any = cast(QueryDict, self.data).copy()
            blank["value"] = ""
            self.data = blank

    def clean(self) -> dict[str, Any]:
        """Build the change that `save_model` passes to the service."""
        data = super().clean() or self.cleaned_data
        row = self.instance
        name, scope = data.get("key", row.key), data.get("scope", row.scope)
        node: Any = data.get("node", row.node)
        if "value" not in data or not name or not scope:
            return data
        if not data["value"] and not (row.pk and row.sealed):
            raise forms.ValidationError({"value": "Enter a value."})
        if (scope == Scope.FLEET) != (node is None):
            raise forms.ValidationError({"node": "Choose a VM, except for the fleet."})
        if scope == Scope.LIEUTENANT and node.category != Category.LIEUTENANT:
            raise forms.ValidationError({"node": "This VM is not a lieutenant."})
        if data["value"]:
            self._build_change(name, data["value"], Target(Scope(scope), node))
        return data

    def _build_change(self, name: str, text: str, target: Target) -> None:
        seen: int | None = self.instance.version_id
        if not self.instance.pk:
            if Setting.objects.for_scope(name, target.scope, target.node).exists():
                text = f"{name} is already set for {target}; edit that setting."
                raise forms.ValidationError({"key": text})
            last = services.newest(name, target)
            seen = last.pk if last else None
        try:
            self.change = services.build_change(name, text, target, seen)
        except ReefError as error:
            raise forms.ValidationError(str(error)) from None

    def validate_constraints(self) -> None:
        """Skip the checks of the database constraints: the service does them."""


@admin.register(Setting)
class SettingAdmin(ModelAdmin[Setting]):
    """The stored settings."""

    form = SettingForm
    list_display = ("key", "target", "value", "at", "actor")
    list_filter = ("scope", "key", "at")
    list_select_related = ("node",)
    search_fields = ("key", "=node__vm_id", "node__name", "=actor")
    raw_id_fields = ("node",)
    list_per_page = 100
    show_full_result_count = False

    def get_fields(self, _request: HttpRequest, obj: Setting | None = None) -> Any:
        return ["key", "scope", "node", "value", *(["at", "actor", "versions"] if obj else [])]

    def get_readonly_fields(self, _request: HttpRequest, obj: Setting | None = None) -> Any:
        """Make key and scope of an existing setting read-only."""
        return ["key", "scope", "node", "at", "actor", "versions"] if obj else []

    def save_model(self, request: HttpRequest, obj: Setting, form: Any, _change: bool) -> None:
        """Store the change through the service, which adds a version and encrypts secrets."""
        if form.change is None:
            return
        try:
            version = services.put(form.change, by=request.user)
        except ReefError as error:
            self.message_user(request, f"Nothing was changed: {error}", messages.ERROR)
            return
        made = Setting.objects.filter(version=version).first()
        obj.pk = made.pk if made else None

    def delete_model(self, request: HttpRequest, obj: Setting) -> None:
        """Remove the setting through the service."""
        services.remove(obj.key, Target(Scope(obj.scope), obj.node), by=request.user)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Setting]) -> None:
        """Remove each setting through the service."""
        for each in queryset:
            self.delete_model(request, each)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Log nothing if the service refused the change."""
        return super().log_addition(request, obj, message) if obj.pk else None

    @admin.display(description="value")
    def value(self, row: Setting) -> str:
        """Show the beginning of the text; hide secrets."""
        return "(secret)" if row.sealed else row.clear[:80]

    @admin.display(description="history")
    def versions(self, row: Setting) -> str:
        """Link to the key's versions, and to the page that previews changes."""
        return format_html(
            '<a href="{}?key__exact={}">versions</a> · <a href="{}">what a change would do</a>',
            reverse("admin:versconfig_version_changelist"),
            row.key,
            reverse("versconfig:one", args=[row.key]),
        )


@admin.register(Version)
class VersionAdmin(ReadOnlyAdmin):
    """All versions of settings."""

    list_display = ("at", "key", "target", "what", "value", "actor")
    list_filter = ("what", "scope", "key", "at")
    list_select_related = ("node",)
    search_fields = ("key", "=node__vm_id", "=actor")
    fields = ("key", "scope", "node", "what", "value", "at", "actor")
    readonly_fields = fields
    ordering = ("-id",)
    actions = ("undo", "put_back")

    def has_undo_permission(self, request: HttpRequest) -> bool:
        """Require the permission to change settings."""
        return request.user.has_perm("versconfig.change_setting")

    @admin.display(description="value")
    def value(self, row: Version) -> str:
        """Show the beginning of the text; hide secrets."""
        return "(secret)" if row.sealed else row.clear[:80]

    @admin.action(
        description="Undo selected versions (the newest of their setting)", permissions=["undo"]
    )
    def undo(self, request: HttpRequest, queryset: QuerySet[Version]) -> None:
        """Undo each version, newest first."""
        self._each(request, queryset, services.undo, "undone")

    @admin.action(description="Put selected versions back", permissions=["undo"])
    def put_back(self, request: HttpRequest, queryset: QuerySet[Version]) -> None:
        """Restore the value after each version."""
        self._each(request, queryset, services.revert_to, "put back")

    def _each(self, request: HttpRequest, rows: QuerySet[Version], act: Any, done: str) -> None:
        def apply(row: Version) -> str:
            act(row.pk, by=request.user)
            return done

        apply_to_each(self, request, rows.order_by("-id"), apply)
