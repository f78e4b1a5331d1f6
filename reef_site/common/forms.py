"""Forms of pages whose rules stand in services."""

from __future__ import annotations

from typing import ClassVar

from django import forms

from reef_site.common.errors import ReefError


class ServiceErrors(forms.BaseForm):
    """Shows what a service refuses beside the field at fault."""

    # What services call a field, where the form has another name for it.
    KEYS: ClassVar[dict[str, str]] = {}

    def add_service_error(self, error: ReefError) -> None:
        """Add the error to its field, without the field's name, or to the whole form."""
        field = self.field_of(error.field)
        if field in self.fields:
            self.add_error(field, str(error).removeprefix(f"{error.field}: "))
        else:
            self.add_error(None, str(error))

    def field_of(self, key: str) -> str:
        """Return the name of the field that services call `key`."""
        return next((name for name, each in self.KEYS.items() if each == key), key)


class ServiceForm(ServiceErrors, forms.Form):
    """A form that calls a service, with texts for screen readers."""

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
