"""Forms of the page "Events" and of subscribers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.db.models import QuerySet

from reef_site.activity.filters import MAX_KINDS, EventFilter, kind_prefix
from reef_site.activity.models import SHARED_CHANNELS
from reef_site.activity.visibility import TOPICS
from reef_site.common.eventlog.models import Event
from reef_site.common.forms import ServiceForm
from vmtree import aliases


class EventFilterForm(forms.Form):
    """Filters of events; every field is optional."""

    kind = forms.CharField(
        required=False,
        max_length=60,
        label="Kind",
        widget=forms.TextInput(attrs={"placeholder": "vm.late, or vm", "list": "topics"}),
    )
    subject = forms.CharField(required=False, max_length=255, label="Subject")
    subtree = forms.CharField(required=False, max_length=255, label="Below VM")
    actor = forms.CharField(required=False, max_length=200, label="Actor")
    since = forms.DateTimeField(
        required=False,
        label="Since",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )

    def rows(self, found: QuerySet[Event]) -> QuerySet[Event]:
        """Return the matching ones of these events; none if a filter is invalid."""
        if not self.is_valid():
            return found.none()
        given = self.cleaned_data
        kind = kind_prefix(given["kind"])
        wanted = EventFilter(
            kinds=(kind,) if kind else (),
            subtree=aliases.resolve(given["subtree"]),
            subject=aliases.resolve(given["subject"]),
            actor=given["actor"],
        )
        rows = wanted.rows(found)
        since = given["since"]
        return rows.filter(at__gte=since) if isinstance(since, datetime) else rows

    @property
    def topics(self) -> list[str]:
        """Return the topics that the field for the kind offers."""
        return list(TOPICS)

    @property
    def is_narrow(self) -> bool:
        """Return whether any filter is set."""
        return any(self.data.get(name) for name in self.fields)


class SubscriberForm(ServiceForm):
    """A new subscriber."""

    name = forms.CharField(max_length=100, label="Name")
    channel = forms.ChoiceField(
        choices=[(each.value, each.label) for each in SHARED_CHANNELS], label="Channel"
    )
    url = forms.CharField(
        required=False, max_length=500, label="URL", help_text="Of a webhook: https://…"
    )
    email = forms.CharField(required=False, max_length=254, label="E-mail address")
    kinds = forms.CharField(
        required=False,
        max_length=1000,
        label="Kinds",
        help_text=f"Kinds such as vm.late, or topics: {', '.join(TOPICS)}. Empty for all.",
    )
    subtree = forms.CharField(required=False, max_length=255, label="Only below VM")

    def clean_kinds(self) -> list[str]:
        """Split the text at commas and blanks."""
        kinds = str(self.cleaned_data["kinds"]).replace(",", " ").split()
        if len(kinds) > MAX_KINDS:
            raise forms.ValidationError(f"At most {MAX_KINDS} kinds.")
        return [kind_prefix(kind) for kind in kinds]

    def columns(self) -> dict[str, Any]:
        """Return the columns of the subscriber's row."""
        given = self.cleaned_data
        wanted = EventFilter(tuple(given["kinds"]), subtree=aliases.resolve(given["subtree"]))
        texts = {name: given[name] for name in ("name", "channel", "url", "email")}
        return {**texts, "wanted": wanted.as_json()}
