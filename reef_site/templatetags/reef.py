"""Template tags and filters for numbers, times and statuses."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from lieutenants.agents import provider_errors
from lieutenants.transcript import markdown as rendering
from lieutenants.transcript import terminal
from reef_site.common import text as texts

register = template.Library()

_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def format_span(span: timedelta) -> str:
    """Format a time span in its largest unit: 12 s, 5 min, 3 h, 2 d; `times.js` does the same."""
    seconds = max(0, int(span.total_seconds()))
    size, unit = next((step for step in _STEPS if seconds >= step[0]), (1, "s"))
    return f"{seconds // size} {unit}"


@register.filter
def span(value: timedelta | None) -> str:
    """Format a time span; empty for None."""
    return "" if value is None else format_span(value)


@register.simple_tag
def ago(moment: datetime | None) -> str:
    """Show how long ago a moment was; `times.js` keeps it current."""
    return _time(moment, "ago", " ago")


@register.simple_tag
def age(moment: datetime | None) -> str:
    """Show the time since a moment, without "ago"."""
    return _time(moment, "age", "")


def _time(moment: datetime | None, kind: str, ending: str) -> str:
    if moment is None:
        return "—"
    utc = moment.astimezone(UTC)
    return format_html(
        '<time datetime="{}" data-rel="{}" title="{}">{}{}</time>',
        utc.isoformat(timespec="milliseconds"),
        kind,
        f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S %Z}",
        format_span(timezone.now() - moment),
        ending,
    )


@register.filter
def tokens(count: int | None) -> str:
    """Format a count of tokens in at most six characters."""
    number = count or 0
    if number < 10_000:
        return f"{number:,}"
    if number < 999_950:
        return f"{number / 1000:.1f}k"
    return f"{number / 1_000_000:.1f}M"


@register.filter
def dollars(amount: Decimal | float | None) -> str:
    """Format US dollars; small amounts keep four digits."""
    value = float(amount or 0)
    if value == 0:
        return "$0"
    return f"${value:.4f}" if value < 0.1 else f"${value:,.2f}"


@register.filter
def first_words(text: str | None) -> str:
    """Return the beginning of a text on one line."""
    return texts.first_words(text or "", 120)


@register.simple_tag
def took(began: datetime | None, ended: datetime | None) -> str:
    """Format a duration; empty while it is unknown."""
    return format_span(ended - began) if began and ended else ""


@register.filter
def plainly(text: str | None) -> str:
    """Return a provider's error as one sentence."""
    return provider_errors.sentence(text or "")


@register.filter
def markdown(text: str) -> SafeString:
    """Render Markdown as safe HTML."""
    return rendering.render(text)


@register.filter
def pretty(value: object) -> str:
    """Format a value as indented JSON, a text as it is."""
    if isinstance(value, str):
        return terminal.mark_reordering(value)
    return terminal.mark_reordering(json.dumps(value, indent=2, ensure_ascii=False))


@register.simple_tag
def status(word: str, label: str = "") -> str:
    """Show a status by colour, shape and word."""
    return format_html('<span class="status is-{}">{}</span>', word, label or word)
