"""Forms of pages whose rules stand in services."""

from __future__ import annotations

from typing import ClassVar

from django import forms

from reef_site.common.errors import ReefError


class ServiceForm(forms.Form):
    """A form that shows what a service refuses beside the field at fault."""

    # What services call a field, where the form has another name for it.
    KEYS: ClassVar[dict[str, str]] = {}

    def add_service_error(self, error: ReefError) -> None:
        fields = {key: name for name, key in self.KEYS.items()}
        field = fields.get(error.field, error.field)
        self.add_error(field if field in self.fields else None, str(error))

    def describe_errors(self) -> None:
        """Tie each field to its error and its help text, for screen readers."""
        for name in self.fields:
            bound = self[name]
            ids = [f"id_{name}_help"] if bound.help_text else []
            ids += [f"id_{name}_error"] if bound.errors else []
            if ids:
                bound.field.widget.attrs["aria-describedby"] = " ".join(ids)
            if bound.errors:
                bound.field.widget.attrs["aria-invalid"] = "true"
