"""Template filters of the fleet's pages."""

from __future__ import annotations

from django import template

register = template.Library()


@register.filter
def grouped(count: int) -> str:
    """Format a count with separated thousands: 100,000."""
    return f"{count:,}"
