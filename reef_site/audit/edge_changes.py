"""Audit records of changes that the edge made without Django, in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence

from django.utils import timezone

from reef_site.audit.models import Action, ActorKind, Record
from reef_site.common.queries.rows import insert_rows
from reef_site.common.text import escape_unprintable
from registry.write_routes import EdgeChange


def record(changes: Sequence[EdgeChange]) -> None:
    """Record each change as the audit middleware does."""
    now = timezone.now()
    insert_rows(
        Record(
            at=now,
            last_at=now,
            action=Action.CHANGE,
            actor=escape_unprintable(each.by, 200),
            actor_kind=ActorKind.ROOT if each.is_root else ActorKind.NODE,
            address=each.address,
            method=each.method,
            route=each.route,
            target=escape_unprintable(each.target, 300),
            status=each.status,
            reason="",
        )
        for each in changes
    )
