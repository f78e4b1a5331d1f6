"""Filters of lists: each person saves, renames and deletes their own, and may hide the presets."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_POST

from reef_site.common.errors import BadInput, Conflict, NotFound
from reef_site.common.lists.bulk import BulkList
from reef_site.lists import services
from reef_site.lists.errors import render_errors
from reef_site.lists.forms import FilterForm
from reef_site.lists.models import HiddenPreset, SavedFilter

MAX_FILTERS = 30


@login_required
@require_POST
@render_errors
def save(request: HttpRequest, name: str) -> HttpResponse:
    """Save the list's filter `query` under a name."""
    bulk_list = services.find_list(name)
    title, query = _name(request), _query(request)
    mine = _mine(request).filter(list=bulk_list.key)
    if mine.count() >= MAX_FILTERS:
        raise Conflict(f"You have {MAX_FILTERS} saved filters here. Delete one first.")
    _write(lambda: mine.create(user=_person(request), list=bulk_list.key, name=title, query=query))
    messages.success(request, f"Filter “{title}” saved.")
    return _back(bulk_list.key, query)


@login_required
@require_POST
@render_errors
def rename(request: HttpRequest, filter_id: int) -> HttpResponse:
    """Give a saved filter another name."""
    row, title = _find(request, filter_id), _name(request)
    _write(lambda: _mine(request).filter(pk=row.pk).update(name=title))
    return _back(row.list, row.query)


@login_required
@require_POST
@render_errors
def delete(request: HttpRequest, filter_id: int) -> HttpResponse:
    """Delete a saved filter."""
    row = _find(request, filter_id)
    row.delete()
    messages.success(request, f"Filter “{row.name}” deleted.")
    return _back(row.list, "")


@login_required
@require_POST
@render_errors
def hide_preset(request: HttpRequest, name: str) -> HttpResponse:
    """Hide a filter that everybody has from this person."""
    bulk_list, preset = _preset(request, name)
    HiddenPreset.objects.get_or_create(user=_person(request), list=bulk_list.key, name=preset)
    messages.success(request, f"Filter “{preset}” hidden. “Edit filters” can show it again.")
    return _back(bulk_list.key, _query(request))


@login_required
@require_POST
@render_errors
def show_preset(request: HttpRequest, name: str) -> HttpResponse:
    """Show a hidden filter again."""
    bulk_list, preset = _preset(request, name)
    hidden = HiddenPreset.objects.filter(user=_person(request), list=bulk_list.key, name=preset)
    hidden.delete()
    return _back(bulk_list.key, _query(request))


def _preset(request: HttpRequest, name: str) -> tuple[BulkList, str]:
    """Return the list and the name of the preset in the form. Raises NotFound."""
    bulk_list, preset = services.find_list(name), request.POST.get("preset", "")
    if preset not in dict(bulk_list.presets):
        raise NotFound("this list has no such preset")
    return bulk_list, preset


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User), "signed in"
    return request.user


def _mine(request: HttpRequest) -> QuerySet[SavedFilter]:
    return SavedFilter.objects.filter(user=_person(request))


def _find(request: HttpRequest, filter_id: int) -> SavedFilter:
    """Return the person's own filter of this id. Raises NotFound."""
    row = _mine(request).filter(pk=filter_id).first()
    if row is None:
        raise NotFound("you have no such filter")
    return row


def _name(request: HttpRequest) -> str:
    form = FilterForm(request.POST)
    if not form.is_valid():
        raise BadInput(f"name: {' '.join(map(str, form.errors['name']))}", "name")
    return str(form.cleaned_data["name"])


def _query(request: HttpRequest) -> str:
    return services.stored_view(request.POST.get("query", ""))


def _write(change: Callable[[], object]) -> None:
    """Make the change. Raises Conflict if another filter has the name."""
    try:
        with transaction.atomic():
            change()
    except IntegrityError:
        raise Conflict("You have a filter of this name here. Choose another name.") from None


def _back(key: str, query: str) -> HttpResponse:
    url = reverse(services.find_list(key).url_name)
    return redirect(f"{url}?{query}" if query else url)
