"""Recent changes in the fleet: VMs, config, and executions of rules, from a few queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Count

from lieutenants.unread.services import Person
from reef_site.activity.visibility import Sight, sight_of
from reef_site.common import clock
from reef_site.common.eventlog.models import Event
from reef_site.common.eventlog.queries import last_id
from registry.rules.models import Firing, FiringState
from versconfig import history
from versconfig.models import Version

PERIOD = timedelta(hours=8)
# Of a very busy fleet, only the newest events are counted.
MAX_EVENTS = 20_000
MAX_CONFIG_CHANGES = 3
_MAX_CONFIG_COUNTED = 30
# Kinds of events by what the page says of them.
_ADDED = ("tree.created", "tree.placed", "tree.restored")
_REMOVED = ("tree.removed", "tree.destroyed")
_CHANGED = ("tree.changed",)


@dataclass(frozen=True)
class RecentChanges:
    """Counts since a time, and the newest changes of config; empty for what one may not read."""

    since: datetime
    # Whether that is when the reader marked all as read.
    is_marked: bool = False
    added: int = 0
    removed: int = 0
    changed: int = 0
    config: list[Version] = field(default_factory=list)
    config_count: int = 0
    executed: int = 0
    failed: int = 0

    @property
    def any(self) -> bool:
        """Return whether there is something to show."""
        counts = (self.added, self.removed, self.changed, self.executed, self.failed)
        return any(counts) or bool(self.config)


def recent_changes(user: Person, read_until: datetime) -> RecentChanges:
    """Return the changes of the last hours, or since `read_until` if that is later."""
    earliest = clock.now() - PERIOD
    since = max(earliest, read_until)
    sight = sight_of(user)
    kinds = _events(sight, since)
    is_operator = sight.is_unlimited and "lieutenant" in settings.ORGANS
    config = _config(since) if sight.reads("config") and "vers-config" in settings.ORGANS else []
    return RecentChanges(
        since,
        is_marked=since > earliest,
        added=_sum(kinds, _ADDED),
        removed=_sum(kinds, _REMOVED),
        changed=_sum(kinds, _CHANGED),
        config=config[:MAX_CONFIG_CHANGES],
        config_count=len(config),
        **(_executions(since) if is_operator else {}),
    )


def _sum(counts: Mapping[str, int], kinds: tuple[str, ...]) -> int:
    return sum(counts.get(kind, 0) for kind in kinds)


def _events(sight: Sight, since: datetime) -> dict[str, int]:
    """Return the numbers of the tree's events by kind."""
    if "vm-tree" not in settings.ORGANS:
        return {}
    recent = Event.objects.filter(topic="tree", pk__gt=last_id() - MAX_EVENTS, at__gte=since)
    return dict(sight.rows(recent).order_by().values_list("kind").annotate(Count("pk")))


def _config(since: datetime) -> list[Version]:
    """Return the newest changes."""
    rows = history.versions()[:_MAX_CONFIG_COUNTED]
    return [row for row in rows if row.at >= since]


def _executions(since: datetime) -> dict[str, int]:
    """Return how many executions of rules have ended, and how many of these failed."""
    ended = Firing.objects.filter(ended_at__gte=since).exclude(state=FiringState.DROPPED)
    counts = dict(ended.order_by().values_list("state").annotate(Count("pk")))
    return {"executed": sum(counts.values()), "failed": counts.get(FiringState.FAILED, 0)}
