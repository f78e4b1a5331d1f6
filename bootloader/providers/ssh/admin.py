"""The admin of SSH hosts. Private keys are entered here and never shown again."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from bootloader import outside_calls
from bootloader.exceptions import ShellRefused
from bootloader.models import HostClaim, SshHost
from bootloader.providers.ssh import shell
from reef_site.common import database_locks
from reef_site.common.admin import ModelAdmin, ModelForm, ReadOnlyAdmin
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.outside_answers import page_answer


class HostForm(ModelForm[SshHost]):
    """A host with a write-only field for its private key."""

    private_key = forms.CharField(
        required=False,
        max_length=16_000,
        widget=forms.Textarea(attrs={"autocomplete": "off", "spellcheck": "false", "rows": 8}),
        help_text="OpenSSH or PEM, without a passphrase; stored encrypted, never shown. Leave "
        "empty to keep the current key. Without a key, REEF_SSH_PRIVATE_KEY is used.",
    )
    forget_private_key = forms.BooleanField(required=False, help_text="Remove the host's own key.")

    class Meta:
        model = SshHost
        fields = (
            *("name", "address", "port", "user", "jump", "host_key", "region", "size"),
            *("vcpus", "memory_mib", "disk_mib", "in_service", "note"),
        )

    def clean_private_key(self) -> str:
        """Return the key, stripped.

        Raise ValidationError, without quoting it, if it cannot be read.
        """
        text: str = self.cleaned_data["private_key"].strip()
        if text:
            try:
                shell.check_key(text)
            except ShellRefused as error:
                raise forms.ValidationError(str(error)) from None
        return text


@admin.register(SshHost)
class SshHostAdmin(ModelAdmin[SshHost]):
    """Machines that the operator already has."""

    form = HostForm
    list_display = ("name", "where", "in_service", "used_by", "own_key", "host_key_known", "note")
    list_filter = ("in_service", "region", "size")
    search_fields = ("name", "address", "note")
    readonly_fields = ("used_by",)
    actions = ("log_in", "forget_host_keys", "put_in_service", "take_out_of_service")
    fieldsets = (
        (None, {"fields": ("name", "address", "port", "user", "jump", "in_service")}),
        ("Use", {"fields": ("used_by", "note")}),
        ("Keys", {"fields": ("private_key", "forget_private_key", "host_key")}),
        ("Hardware", {"fields": ("region", "size", "vcpus", "memory_mib", "disk_mib")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[SshHost]:
        """Annotate each host as `use` with the name of its active claim."""
        claims = HostClaim.objects.active().filter(host=OuterRef("pk"))
        return super().get_queryset(request).annotate(use=Subquery(claims.values("name")[:1]))

    @admin.display(description="address")
    def where(self, row: SshHost) -> str:
        """Return user, address and port."""
        return f"{row.user}@{row.address}:{row.port}"

    @admin.display(description="used by", ordering="use")
    def used_by(self, row: SshHost) -> str:
        """Return the name of the active claim."""
        return getattr(row, "use", None) or "—"

    @admin.display(description="own key", boolean=True)
    def own_key(self, row: SshHost) -> bool:
        """Return whether the host has a private key of its own."""
        return bool(row.sealed_key)

    @admin.display(description="host key known", boolean=True)
    def host_key_known(self, row: SshHost) -> bool:
        """Return whether a host key is stored, so that any other key is rejected."""
        return bool(row.host_key)

    @transaction.atomic
    def save_model(self, _request: HttpRequest, obj: SshHost, form: Any, change: bool) -> None:
        """Save with the key encrypted, under a shared lock on the vault's keys: a rotation of
        them that runs at the same time must not miss this key.
        """
        database_locks.lock(DatabaseLock.VAULT_KEYS, shared=True)
        if form.cleaned_data.get("forget_private_key"):
            obj.set_key("")
        elif key := form.cleaned_data.get("private_key"):
            obj.set_key(key)
        elif change:
            obj.sealed_key = SshHost.objects.get(pk=obj.pk).sealed_key
        obj.save()

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Explain why a host that is or was used is not deleted, and name its use."""
        row = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        use = row.claims.order_by("released_at", "-claimed_at").first() if row else None
        if row is not None and use is not None:
            active = row.claims.active().first()
            usage = f"is used by {active.name}" if active else f"was used by {use.name}"
            how = "destroy that VM, then take it" if active else "take it"
            text = f"{row} {usage} and is not deleted: {how} out of service instead."
            self.message_user(request, text, messages.ERROR)
            return redirect("admin:bootloader_sshhost_change", object_id)
        return super().delete_view(request, object_id, extra_context)

    def has_delete_permission(self, request: HttpRequest, obj: SshHost | None = None) -> bool:
        """Keep a host that was ever used: its history refers to it."""
        if obj is not None and obj.claims.exists():
            return False
        return super().has_delete_permission(request, obj)

    @admin.action(description="Try to log in on selected hosts", permissions=["change"])
    def log_in(self, request: HttpRequest, queryset: QuerySet[SshHost]) -> HttpResponse:
        """Log in on the hosts and run a no-op command. A worker does it."""
        call = outside_calls.log_in(list(queryset), by=request.user)
        return page_answer(request, call, request.get_full_path())

    @admin.action(description="Forget host keys of selected hosts", permissions=["change"])
    def forget_host_keys(self, request: HttpRequest, queryset: QuerySet[SshHost]) -> None:
        """Clear the stored host keys of reinstalled hosts; the next key shown is stored."""
        count = queryset.update(host_key="")
        self.message_user(request, f"{count} host keys were forgotten.")

    @admin.action(description="Put selected hosts in service", permissions=["change"])
    def put_in_service(self, request: HttpRequest, queryset: QuerySet[SshHost]) -> None:
        self.message_user(request, f"{queryset.update(in_service=True)} hosts are in service.")

    @admin.action(description="Take selected hosts out of service", permissions=["change"])
    def take_out_of_service(self, request: HttpRequest, queryset: QuerySet[SshHost]) -> None:
        """Stop claiming the hosts for new VMs. VMs that run on them continue."""
        count = queryset.update(in_service=False)
        self.message_user(request, f"{count} hosts are out of service.")


@admin.register(HostClaim)
class HostClaimAdmin(ReadOnlyAdmin):
    """The past and present uses of each host."""

    list_display = ("name", "host", "id", "claimed_at", "released_at")
    list_filter = (("released_at", admin.EmptyFieldListFilter), "claimed_at")
    search_fields = ("name", "host__name", "=id")
    list_select_related = ("host",)
