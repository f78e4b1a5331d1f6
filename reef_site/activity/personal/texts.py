"""Texts of notifications: a sentence and a link for each event, in the form of the channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.urls import NoReverseMatch, reverse

from reef_site.activity.models import Form
from reef_site.activity.naming import NamedEvent, with_names
from reef_site.common.eventlog.models import Event
from reef_site.common.text import first_words
from versconfig.screening import sources

Json = dict[str, Any]
MAX_TEXT = 300
# Discord refuses longer messages.
MAX_MESSAGE = 1900
TEST = "This is a test of your notifications."


@dataclass(frozen=True)
class Notice:
    """One thing that a person is told; `path` is the page about it."""

    kind: str
    text: str
    path: str

    @property
    def url(self) -> str:
        return public_url() + self.path


def public_url() -> str:
    """Return the beginning of links to pages, without the path of a proxy."""
    if settings.PUBLIC_URL:
        prefix = settings.FORCE_SCRIPT_NAME or ""
        return settings.PUBLIC_URL.removesuffix(prefix) if prefix else settings.PUBLIC_URL
    return f"http://{settings.OWN_HOST or '127.0.0.1'}:{settings.PORT}"


def notices(events: Sequence[Event]) -> list[Notice]:
    """Return what these events mean, with all secrets covered; names take one query for all."""
    cover = sources.current(recheck=True).cover
    return [
        Notice(each.row.kind, first_words(cover(_sentence(each)), MAX_TEXT), _path(each.row))
        for each in with_names(events)
    ]


def test_notice() -> Notice:
    return Notice("test", TEST, reverse("notifications:index"))


def title(found: Sequence[Notice]) -> str:
    """Return one line for all of these."""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return first_words(found[0].text, 120) + more


def message(form: str, found: Sequence[Notice], events: Sequence[Json]) -> Json:
    """Return the body of a webhook call in this form."""
    if form == Form.SLACK:
        lines = [f"• {_for_slack(each.text)} <{_for_slack(each.url)}|Open>" for each in found]
        return {"text": _within(lines)}
    if form == Form.DISCORD:
        # Brackets keep Discord from showing a preview of the page.
        lines = [f"• {_for_discord(each.text)} <{each.url}>" for each in found]
        return {"content": _within(lines), "allowed_mentions": {"parse": []}}
    told = [{"kind": each.kind, "text": each.text, "url": each.url} for each in found]
    return {"title": title(found), "notices": told, "events": list(events)}


def mail_text(found: Sequence[Notice]) -> str:
    lines = [f"{each.text}\n{each.url}\n" for each in found]
    settings_url = public_url() + reverse("notifications:index")
    return "\n".join(lines) + f"\n-- \nWhat you are told, and when: {settings_url}\n"


def _within(lines: Sequence[str]) -> str:
    """Join as many lines as one message takes, and say how many are left out."""
    taken, size = list[str](), 0
    for line in lines:
        size += len(line) + 1
        if size > MAX_MESSAGE:
            break
        taken.append(line)
    left = len(lines) - len(taken)
    return "\n".join([*taken, f"… and {left} more"] if left else taken)


def _for_slack(text: str) -> str:
    """Escape what would be a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _for_discord(text: str) -> str:
    return "".join(f"\\{char}" if char in "\\*_~`|<>[]" else char for char in text)


def _sentence(named: NamedEvent) -> str:
    event, detail = named.row, named.row.detail
    name = named.subject_name or event.subject
    reason = str(detail.get("reason") or "")
    about = f": {reason}" if reason else ""
    match event.kind:
        case "question.asked":
            return f"{detail.get('lieutenant') or name} asks: {detail.get('text', '')}"
        case "lieutenant.error":
            return f"{name} is in error{about}"
        case "lieutenant.idle":
            return f"{name} has finished its work"
        case "vm.silent":
            return f"VM {name} is silent"
        case "boot.failed":
            return f"Provisioning of {name} failed{about}"
        case "grant.used-up":
            return f"The budget of {name} is used up{about}"
    verb = event.kind.replace(".", " ").replace("-", " ")
    by = f" by {named.actor_name or event.actor}" if event.actor else ""
    return f"{verb}: {name}{by}{about}"


def _path(event: Event) -> str:
    """Return the page about it; the event log if this reef does not have that page."""
    try:
        return _own_page(event)
    except NoReverseMatch:
        return _in_log(event)


def _in_log(event: Event) -> str:
    return f"{reverse('event-log:index')}?{urlencode({'kind': event.kind})}"


def _own_page(event: Event) -> str:
    match event.topic:
        case "question":
            return f"{reverse('questions:index')}#q{event.subject}"
        case "lieutenant":
            return reverse("lieutenants:by-id", args=[event.subject])
        case "boot":
            return reverse("bootloader:detail", args=[event.subject])
        case "vm" | "grant":
            return f"{reverse('fleet:by-id')}?{urlencode({'vm': event.subject})}"
    return _in_log(event)
