"""Executions of rules that need a person: failed ones, and those that will soon end something."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from urllib.parse import urlencode

from django.db.models import F, Q
from django.urls import reverse
from django.utils import timezone

from reef_site.common.attention import (
    MAX_ITEMS,
    MAX_TEXT,
    AttentionKind,
    Button,
    Item,
    attention_kinds,
    digest,
)
from reef_site.common.text import first_words
from registry.rules.models import Action, Firing, FiringState

KIND = "rule"
FAILED_SINCE = timedelta(days=7)
_ENDS_SOMETHING = (Action.DESTROY, Action.DO_PROPOSED)


def register() -> None:
    """Register the kind of rule executions."""
    attention_kinds.register(AttentionKind("rules", find_firings, organ="lieutenant"), key=KIND)


def find_firings() -> Iterator[Item]:
    """Yield the failed executions of the last days, and those that wait before they destroy."""
    failed = Q(state=FiringState.FAILED, ended_at__gte=timezone.now() - FAILED_SINCE)
    destroying = Q(state=FiringState.WAITING, action__in=_ENDS_SOMETHING)
    page = reverse("rules:executions")
    rows = Firing.objects.filter(failed | destroying).defer("evidence")
    for row in rows.order_by(F("ended_at").desc(nulls_first=True), "-id")[:MAX_ITEMS]:
        url = f"{page}?{_query(row)}#firing-{row.pk}"
        yield _waiting(row, url) if row.state == FiringState.WAITING else _failed(row, url)


def _failed(row: Firing, url: str) -> Item:
    line = first_words(row.outcome, MAX_TEXT)
    return Item(
        kind=KIND,
        subject=str(row.pk),
        name=_name(row),
        url=url,
        state="error",
        label="rule failed",
        since=row.ended_at or row.at,
        text=line,
        group=f"{digest(row.rule_name)} {digest(line)}",
        waiting=0,
        make_buttons=partial(_buttons, url),
    )


def _waiting(row: Firing, url: str) -> Item:
    due = timezone.localtime(row.due_at)
    action = Action(row.action).label
    return Item(
        kind=KIND,
        subject=str(row.pk),
        name=_name(row),
        url=url,
        state="late",
        label="rule will act",
        since=row.at,
        text=f"{action[:1].upper()}{action[1:]}, at {due:%Y-%m-%d %H:%M %Z}.",
        group=f"{digest(row.rule_name)} waits",
        make_buttons=partial(_buttons, url),
    )


def _buttons(url: str) -> list[Button]:
    return [Button("Look", url, is_link=True)]


def _name(row: Firing) -> str:
    return f"{row.rule_name}: {row.subject_name or row.subject}"


def _query(row: Firing) -> str:
    return urlencode({"rule": row.rule_id}) if row.rule_id else ""
