"""Forms of the pages about permissions and tokens. The rules are in the services."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from django import forms

from bootloader.boot import profiles
from bootloader.grants.services import (
    MAX_DOLLARS,
    MAX_LEVELS,
    MAX_LIEUTENANTS,
    MAX_VMS,
    Limits,
)
from reef_site.common import clock
from reef_site.common.errors import BadInput
from reef_site.common.forms import ServiceForm
from vmtree import aliases
from vmtree.models import Node, OperatorToken

MAX_DAYS = 3650
_PLAIN_INPUT = {"autocomplete": "off", "spellcheck": "false"}


class GrantForm(ServiceForm):
    """The grant of a node."""

    vms = forms.IntegerField(
        min_value=0, max_value=MAX_VMS, label="VMs", help_text="How many more it may have made."
    )
    levels = forms.IntegerField(
        min_value=1,
        max_value=MAX_LEVELS,
        label="Levels of VMs",
        help_text="How far below the node VMs may be. 1 is directly below it.",
    )
    profiles = forms.MultipleChoiceField(
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Choose none to allow all.",
    )
    lieutenants = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=MAX_LIEUTENANTS,
        help_text="How many more it and the nodes below it may create. Leave empty for no limit.",
    )
    lieutenant_levels = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_LEVELS,
        label="Levels of lieutenants",
        help_text="How far below the node they may be. Leave empty for no limit.",
    )
    dollars = forms.DecimalField(
        required=False,
        min_value=0,
        max_value=MAX_DOLLARS,
        decimal_places=6,
        label="Budget in US dollars",
        help_text="What lieutenants of the node and below it may cost. Leave empty for no limit.",
    )
    renew_dollars = forms.BooleanField(
        required=False,
        label="Begin the budget anew",
        help_text="Otherwise what was spent since it was first set still counts.",
    )
    KEYS: ClassVar = {"lieutenant_levels": "lieutenantLevels"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kinds: Any = self.fields["profiles"]
        kinds.choices = [(kind, kind) for kind in profiles.types()]

    def limits(self) -> Limits:
        """Return the grant of a valid form."""
        return Limits(**self.cleaned_data)


class TokenForm(ServiceForm):
    """A new operator token."""

    name = forms.CharField(
        max_length=64,
        help_text="1–64 letters, digits, dots, dashes or underscores. Shown in the audit log.",
        widget=forms.TextInput(attrs=_PLAIN_INPUT),
    )
    scope = forms.ChoiceField(choices=OperatorToken.Scope.choices)
    subtree = forms.CharField(
        required=False,
        max_length=255,
        help_text="Id of a VM to limit the token to it and what is below it. Leave empty for the "
        "whole fleet.",
        widget=forms.TextInput(attrs=_PLAIN_INPUT),
    )
    days = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_DAYS,
        initial=90,
        label="Expires after (days)",
        help_text="Leave empty for a token that does not expire.",
    )
    KEYS: ClassVar = {"days": "expires_at"}

    def values(self) -> dict[str, Any]:
        """Return the arguments of `operator_tokens.make`. Raises BadInput."""
        given = self.cleaned_data
        days, vm_id = given["days"], given["subtree"].strip()
        node = None
        if vm_id:
            node = Node.objects.active().filter(vm_id=aliases.resolve(vm_id)).first()
            if node is None:
                raise BadInput(f"There is no VM {vm_id!r}.", "subtree")
        return {
            "name": given["name"],
            "scope": given["scope"],
            "subtree": node,
            "expires_at": clock.now() + timedelta(days=days) if days else None,
        }
