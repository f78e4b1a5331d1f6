"""Base classes and helpers of the apps' admin modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.exceptions import NotRegistered
from django.db.models import Model
from django.http import HttpRequest
from rest_framework.exceptions import ValidationError

from reef_site.common.api.fields import problem_of
from reef_site.common.api.serializers import Body
from reef_site.common.errors import ReefError

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin, StackedInline
    from django.forms import ModelForm
else:
    # Type checkers want the model, as in `ModelAdmin[Node]`; Django's classes do not take it.
    class _TakesModel:
        def __class_getitem__(cls, _model):
            return cls

    class ModelAdmin(_TakesModel, admin.ModelAdmin):
        pass

    class StackedInline(_TakesModel, admin.StackedInline):
        pass

    class ModelForm(_TakesModel, forms.ModelForm):
        pass


__all__ = [
    "BodyForm",
    "ModelAdmin",
    "ModelForm",
    "ReadOnlyAdmin",
    "RecentValuesFilter",
    "StackedInline",
    "add_actions",
    "apply_to_each",
]


# How many of the newest rows offer their values to `RecentValuesFilter`.
RECENT_ROWS = 5000

T = TypeVar("T")
M = TypeVar("M", bound=Model)


class BodyForm(ModelForm[M]):
    """A form with the limits of an API body: a field of the form is checked by the body's field
    whose `source` it is.
    """

    body: type[Body]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        for name, field in self.body().fields.items():
            source = str(field.source)
            if source not in data:
                continue
            try:
                field.run_validation(data[source])
            except ValidationError as error:
                self.add_error(source, problem_of({name: error.detail}))
        return data


class RecentValuesFilter(admin.AllValuesFieldListFilter):
    """Offers the values of the newest rows, rather than read the whole table for all values."""

    def __init__(self, field: Any, *args: Any, **options: Any) -> None:
        super().__init__(field, *args, **options)
        rows = field.model._default_manager
        newest = rows.order_by("-pk").values("pk")[:RECENT_ROWS]
        values = rows.filter(pk__in=newest).order_by(field.name)
        self.lookup_choices = values.values_list(field.name, flat=True).distinct()


class ReadOnlyAdmin(ModelAdmin[Any]):
    """Rows that reef writes itself: they can be listed, filtered and searched."""

    show_full_result_count = False
    list_per_page = 100
    # A user needs it for actions with `permissions=["command"]`; if empty, nobody has it.
    command_permission = ""

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        return False

    def has_command_permission(self, request: HttpRequest) -> bool:
        return bool(self.command_permission) and request.user.has_perm(self.command_permission)


def apply_to_each(
    model_admin: ModelAdmin[Any], request: HttpRequest, rows: Iterable[T], act: Callable[[T], str]
) -> None:
    """Call `act` for each row and show what it returns; an error of one row stops no other."""
    for row in rows:
        try:
            model_admin.message_user(request, f"{row}: {act(row)}", messages.SUCCESS)
        except ReefError as error:
            model_admin.message_user(request, f"{row}: {error}", messages.ERROR)


def add_actions(model: type[Model], *actions: Any, site: admin.AdminSite = admin.site) -> None:
    """Add actions to the admin of another app's model, if the site has one."""
    with contextlib.suppress(NotRegistered):
        model_admin = site.get_model_admin(model)
        model_admin.actions = [*(model_admin.actions or ()), *actions]
