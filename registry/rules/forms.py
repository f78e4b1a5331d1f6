"""Forms of the pages of rules."""

from __future__ import annotations

from typing import Any

from django import forms

from reef_site.common.admin import BodyForm
from reef_site.common.forms import ServiceErrors
from registry.rules.models import FiringState, Rule
from registry.rules.serializers import RuleChangeBody


class RulePageForm(ServiceErrors, BodyForm[Rule]):
    """Fields of a rule. `services` saves them."""

    body = RuleChangeBody

    webhook_secret = forms.CharField(
        required=False,
        max_length=500,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="Signs the calls. Empty: the present one stays, or one is generated.",
    )

    class Meta:
        model = Rule
        fields = (
            *("name", "about", "event", "minutes", "role", "category", "name_pattern"),
            *("action", "grace_minutes", "most_an_hour", "text", "webhook_url"),
        )
        labels = {
            "about": "What it is for",
            "event": "When",
            "minutes": "For how many minutes",
            "role": "Only this role",
            "category": "Only this category",
            "name_pattern": "Only names like",
            "action": "Then",
            "grace_minutes": "Minutes of grace",
            "most_an_hour": "At most per hour",
            "text": "Text",
            "webhook_url": "Webhook URL",
        }
        help_texts = {
            "about": "",
            "minutes": "How long it must have been so; 0 for at once.",
            "name_pattern": "* is any text, ? is one character. Empty: all names.",
            "grace_minutes": "Wait this long and check again before anything is done.",
            "most_an_hour": "Further cases wait for the next hour.",
            "text": "What a record or a webhook says.",
        }
        widgets = {
            "about": forms.Textarea(attrs={"rows": 2}),
            "text": forms.Textarea(attrs={"rows": 2}),
        }

    @property
    def columns(self) -> dict[str, Any]:
        """Return the columns of the rule."""
        return {name: self.cleaned_data[name] for name in self.Meta.fields}

    @property
    def key(self) -> str | None:
        """Return the new secret; None if the present one stays."""
        return self.cleaned_data["webhook_secret"] or None


class ExecutionsForm(forms.Form):
    """Filters of executions; both are optional."""

    rule = forms.ModelChoiceField(
        Rule.objects.all(), required=False, label="Rule", empty_label="All rules"
    )
    state = forms.ChoiceField(
        choices=[("", "All states"), *FiringState.choices], required=False, label="State"
    )

    def given(self) -> dict[str, Any]:
        """Return the valid filters that are set."""
        return {name: value for name, value in self.cleaned_data.items() if value}
