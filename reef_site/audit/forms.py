"""Filter form of the audit page."""

from __future__ import annotations

from datetime import datetime

from django import forms

from reef_site.audit.models import Action, Record, RecordQuerySet
from vmtree import permissions


class FilterForm(forms.Form):
    """Filters of the records; every field is optional."""

    actor = forms.CharField(required=False, max_length=200, label="Actor")
    action = forms.ChoiceField(
        required=False, choices=[("", "Any"), *Action.choices], label="Action"
    )
    permission = forms.ChoiceField(
        required=False,
        choices=[("", "Any"), *((each.slug, each.slug) for each in permissions.Action)],
        label="Refused permission",
    )
    address = forms.CharField(required=False, max_length=45, label="Address")
    since = forms.DateTimeField(required=False, label="Since")
    until = forms.DateTimeField(required=False, label="Until")
    refused = forms.BooleanField(required=False, label="Refused only")

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        for name in ("since", "until"):
            self.fields[name].widget = forms.DateTimeInput(
                attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"
            )

    def rows(self) -> RecordQuerySet:
        """Return the matching records, newest first; none if a filter is invalid."""
        if not self.is_valid():
            return Record.objects.none()
        given = self.cleaned_data
        rows = Record.objects.order_by("-id")
        if given["actor"]:
            rows = rows.filter(actor=given["actor"])
        if given["action"]:
            rows = rows.filter(action=given["action"])
        if given["permission"]:
            rows = rows.filter(permission=given["permission"])
        if given["address"]:
            rows = rows.filter(address=given["address"])
        if given["refused"]:
            rows = rows.refusals()
        return rows.between(_moment(given["since"]), _moment(given["until"]))

    @property
    def is_narrow(self) -> bool:
        """Return whether any filter is set."""
        return any(self.data.get(name) for name in self.fields)


def _moment(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None
