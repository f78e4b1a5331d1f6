"""Form of the CSV download."""

from __future__ import annotations

from django import forms

MAX_DAYS = 366
DEFAULT_DAYS = 30


class DownloadForm(forms.Form):
    """The number of days to download; the last one is today."""

    days = forms.IntegerField(
        min_value=1, max_value=MAX_DAYS, initial=DEFAULT_DAYS, label="Days", required=False
    )

    @property
    def count(self) -> int:
        """Return the number of days; an invalid one counts as the default."""
        return (self.is_valid() and self.cleaned_data["days"]) or DEFAULT_DAYS
