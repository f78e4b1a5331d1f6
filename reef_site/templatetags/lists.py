"""Template tags of lists: saved filters, and the form for actions on many rows."""

from __future__ import annotations

from typing import Any

from django import template
from django.http import HttpRequest, QueryDict
from django.urls import reverse

from reef_site.common.lists.bulk import MAX_ROWS
from reef_site.lists import services
from reef_site.lists.models import HiddenPreset, SavedFilter

register = template.Library()


@register.inclusion_tag("lists/_filters.html", takes_context=True)
def saved_filters(context: dict[str, Any], name: str) -> dict[str, Any]:
    """Show the presets that the person has not hidden, and the filters that they have saved."""
    request: HttpRequest = context["request"]
    bulk_list = services.find_list(name)
    url, current = reverse(bulk_list.url_name), services.filters_of(request.GET)
    mine = list(SavedFilter.objects.filter(user=request.user.pk, list=name))
    hidden = set(
        HiddenPreset.objects.filter(user=request.user.pk, list=name).values_list("name", flat=True)
    )
    presets = [pair for pair in bulk_list.presets if pair[0] not in hidden]
    pairs = [*presets, *((row.name, row.query) for row in mine)]
    chips = [
        (title, f"{url}?{query}", services.filters_of(QueryDict(query)) == current)
        for title, query in pairs
    ]
    view = services.view_of(request.GET)
    known = {services.view_of(QueryDict(query)) for _, query in pairs}
    return {
        "list": name,
        "url": url,
        "chips": chips,
        "mine": mine,
        "presets": [(title, title in hidden) for title, _ in bulk_list.presets],
        "query": view,
        "is_filtered": bool(current),
        "can_save": bool(view) and view not in known,
        "csrf_token": context.get("csrf_token"),
    }


@register.inclusion_tag("lists/_bulk.html", takes_context=True)
def bulk_form(context: dict[str, Any], name: str, total: int) -> dict[str, Any]:
    """Show the form that plans an action for the chosen rows, or for all `total` matches."""
    bulk_list = services.find_list(name)
    return {
        "list": name,
        "actions": bulk_list.actions.values(),
        "query": services.view_of(context["request"].GET),
        "total": total,
        "most": MAX_ROWS,
        "read_only": context["reef"]["read_only"],
        "csrf_token": context.get("csrf_token"),
    }
