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
from lieutenants.models import Answer
from lieutenants.states import Outcome
from lieutenants.transcript import markdown as rendering
from lieutenants.transcript import terminal
from reef_site.common import clock
from reef_site.common import text as texts

register = template.Library()

# With the shape that `base.css` gives it, so that colour is not needed.
OUTCOME_WORDS = {
    Outcome.OPEN: "open",
    Outcome.COMPLETED: "done",
    Outcome.ABORTED: "aborted",
    Outcome.ERROR: "failed",
    Outcome.INTERRUPTED: "interrupted",
}
_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def format_span(span: timedelta) -> str:
    """Format a time span in its largest unit: 12 s, 5 min, 3 h, 2 d; `times.js` does the same."""
    seconds = max(0, int(span.total_seconds()))
    size, unit = next((step for step in _STEPS if seconds >= step[0]), (1, "s"))
    return f"{seconds // size} {unit}"


@register.filter
def span(value: timedelta | float | None) -> str:
    """Format a duration, which may be a number of seconds; empty for None."""
    if value is None:
        return ""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    return texts.format_duration(seconds)


@register.simple_tag
def ago(moment: datetime | None) -> str:
    """Show how long ago a moment was; `times.js` keeps it current."""
    return _time(moment, "ago", " ago")


@register.simple_tag
def age(moment: datetime | None) -> str:
    """Show the time since a moment, without "ago"."""
    return _time(moment, "age", "")


@register.simple_tag
def at(moment: datetime | None) -> str:
    """Show a moment in the person's time zone; without its date if that is today's."""
    if moment is None:
        return "—"
    local, today = timezone.localtime(moment), timezone.localdate()
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.astimezone(UTC).isoformat(timespec="milliseconds"),
        f"{local:%Y-%m-%d %H:%M:%S %Z}",
        f"{local:%H:%M:%S}" if local.date() == today else f"{local:%Y-%m-%d %H:%M:%S}",
    )


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
def parsed_time(text: str) -> datetime:
    """Return the moment of a timestamp in JSON, for the filter `date`."""
    return clock.parse_iso(text)


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
def grouped(count: int) -> str:
    """Format a count with its thousands separated."""
    return f"{count:,}"


@register.filter
def dollars(amount: Decimal | float | None) -> str:
    """Format US dollars; small amounts keep four digits."""
    return texts.format_dollars(amount or 0)


@register.simple_tag
def outcome(turn: Answer) -> str:
    """Show the outcome of a turn, how long it took and how long ago it ended."""
    word = Outcome(turn.outcome)
    lasted = f" in {span(turn.ended_at - turn.started_at)}" if turn.ended_at else ""
    return format_html(
        '<span class="outcome is-{}">{}</span><span class="soft">{} · {}</span>',
        word,
        OUTCOME_WORDS[word],
        lasted,
        ago(turn.ended_at),
    )


@register.simple_tag
def outcome_word(turn: Answer) -> str:
    """Show the outcome of a turn, where there is no room for more."""
    word = Outcome(turn.outcome)
    return format_html('<span class="outcome is-{}">{}</span>', word, OUTCOME_WORDS[word])


@register.filter
def first_words(text: str | None) -> str:
    """Return the beginning of a text on one line."""
    return texts.first_words(text or "", 120)


@register.simple_tag
def took(began: datetime | None, ended: datetime | None) -> str:
    """Format the duration between two moments; empty while it is unknown."""
    return span(ended - began) if began and ended else ""


@register.filter
def plainly(text: str | None) -> str:
    """Return a provider's error as one sentence."""
    return provider_errors.sentence(text or "")


@register.filter
def markdown(text: str) -> SafeString:
    """Render Markdown as safe HTML."""
    return rendering.render(text)


@register.filter
def printed(text: str) -> SafeString:
    """Show what a program printed, as a terminal would, with its colours."""
    return terminal.html(text, len(text))


@register.filter
def reordering_marked(text: str | None) -> str:
    """Return the text with visible marks in place of characters that would reorder it."""
    return terminal.mark_reordering(text or "")


@register.filter
def without_markdown(text: str | None) -> str:
    """Return the plain text of Markdown."""
    return rendering.plain_text(text or "")


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
