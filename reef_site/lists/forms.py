"""Forms of saved filters."""

from __future__ import annotations

from django import forms

from reef_site.lists.models import MAX_NAME


class FilterForm(forms.Form):
    """The name of a saved filter."""

    name = forms.CharField(max_length=MAX_NAME)
