"""Filters of the fleet's pages."""

from __future__ import annotations

from django import template

register = template.Library()


@register.filter
def grouped(count: int) -> str:
    """A count with its thousands set apart: 100,000."""
    return f"{count:,}"
