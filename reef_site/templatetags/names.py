"""The filter for names, available in all templates."""

from __future__ import annotations

from django import template

from vmtree import names

register = template.Library()


@register.filter
def marked(name: object) -> str:
    """Return the name with visible marks in place of invisible characters."""
    return names.marked(str(name or ""))
