"""Filter and tag for names, available in all templates."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import template
from django.template import Context
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html

from vmtree import actors, names

register = template.Library()


@register.filter
def marked(name: object) -> str:
    """Return the name with visible marks in place of invisible characters."""
    return names.marked(str(name or ""))


@register.simple_tag(takes_context=True)
def actor(context: Context, text: str | None, missing: str = "") -> str:
    """Show who did something: a node by its name, with a link to it."""
    found = text or missing
    vm_id = actors.node_id(found)
    if not vm_id:
        return found
    request: Any = context.get("request")
    name = actors.remember(request, [found]).get(vm_id, "") if request else ""
    if not name:
        return found
    try:
        url = f"{reverse('fleet:by-id')}?{urlencode({'vm': vm_id})}"
    except NoReverseMatch:
        return name
    return format_html('<a href="{}" title="{}">{}</a>', url, found, name)
