"""The admin of custom profiles: checkboxes for organs and capabilities, one package a line."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin

from bootloader.boot.catalog import BUILT_IN, CAPABILITIES, ORGANS
from bootloader.models import OwnProfile, ProfileFile
from reef_site.common.admin import ModelAdmin, ModelForm, StackedInline


class LinesField(forms.CharField):
    """A list of strings, edited with one item on each line."""

    widget = forms.Textarea

    def prepare_value(self, value: Any) -> Any:
        """Join the list into lines."""
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        """Split lines into a list, without blank ones."""
        return [line.strip() for line in str(value or "").splitlines() if line.strip()]


class ProfileForm(ModelForm[OwnProfile]):
    """A custom profile. The model validates its lists."""

    organs = forms.MultipleChoiceField(
        required=False,
        choices=[(name, name) for name in ORGANS],
        widget=forms.CheckboxSelectMultiple,
    )
    capabilities = forms.MultipleChoiceField(
        required=False,
        choices=[(name, name) for name in CAPABILITIES],
        widget=forms.CheckboxSelectMultiple,
    )
    packages = LinesField(required=False, help_text="Debian packages, one on each line.")


class FileInline(StackedInline[ProfileFile, OwnProfile]):
    """The files of a profile."""

    model = ProfileFile
    extra = 0


@admin.register(OwnProfile)
class OwnProfileAdmin(ModelAdmin[OwnProfile]):
    """Custom profiles. The built-in ones are defined in code and not listed."""

    form = ProfileForm
    inlines = (FileInline,)
    list_display = ("type", "description", "dna", "category", "role", "agent", "own_reef")
    list_filter = ("category", "role")
    search_fields = ("type", "description")
    fieldsets = (
        (
            None,
            {
                "fields": ("type", "description"),
                "description": f"Built in, and never changed: {', '.join(BUILT_IN)}.",
            },
        ),
        ("DNA", {"fields": ("organs", "capabilities")}),
        ("Place in the fleet", {"fields": ("category", "role", "agent_role")}),
        ("Software", {"fields": ("agent", "own_reef", "install_pi_vers", "packages")}),
        ("Size", {"fields": ("vcpus", "memory_mib", "disk_mib")}),
    )

    @admin.display(description="DNA")
    def dna(self, row: OwnProfile) -> str:
        """Return organs, then capabilities."""
        return f"{', '.join(row.organs) or '—'} · {', '.join(row.capabilities) or '—'}"
