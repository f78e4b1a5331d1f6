"""The row above all roots: the number of VMs, and how many are in which unhealthy state.

It counts the whole fleet. For large fleets the counts are cached for a moment in this process; the
row then says when to fetch it again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Sum

from lieutenants.models import Lieutenant
from lieutenants.states import Status as LieutenantStatus
from reef_site.dashboard.tree_rows import Moment
from registry.models import VM, Status
from vmtree.models import Node

# Smaller fleets are counted each time.
LARGE_FLEET = 20_000
# The cache is valid for the counting time multiplied by WORTH, up to LONGEST_SECONDS.
CACHE_FACTOR = 25.0
MAX_CACHE_SECONDS = 5.0
# From good to bad.
_BY_RANK = ("paused", "stopped", "late", "silent")

States = list[tuple[str, int]]


@dataclass(frozen=True)
class RootSummary:
    """Counts of all VMs."""

    total: int
    roots: int
    shape: str
    states: States
    loose: UnplacedCounts
    # After how many milliseconds to fetch it again if it is cached; 0 if it is current.
    again_ms: int = 0


@dataclass(frozen=True)
class UnplacedCounts:
    """Counts of VMs in the registry that have no place in the tree."""

    count: int
    shape: str
    states: States

    @property
    def worst(self) -> str:
        """The worst state of any of them, if one is paused or worse."""
        found = dict(self.states)
        return next((word for word in reversed(_BY_RANK) if word in found), "")


@dataclass
class _Kept:
    """Cached counts, and until when they are valid."""

    root: RootSummary | None = None
    until: float = 0.0


_kept = _Kept()


def root_summary(moment: Moment) -> RootSummary:
    """Return the current counts, or cached ones for a large fleet."""
    now = time.monotonic()
    if _kept.root and now < _kept.until:
        return replace(_kept.root, again_ms=int((_kept.until - now) * 1000) + 1)
    found = counted(moment)
    if found.total + found.loose.count >= LARGE_FLEET:
        spent = time.monotonic() - now
        _kept.root, _kept.until = found, now + min(MAX_CACHE_SECONDS, CACHE_FACTOR * spent)
    return found


def forget() -> None:
    """Drop the cached counts."""
    _kept.until = 0.0


def counted(moment: Moment) -> RootSummary:
    """Count the fleet."""
    living = Node.objects.active()
    tops = living.roots().aggregate(count=Count("pk"), sum=Sum("pk"))
    loose = _unplaced(moment)
    return RootSummary(
        total=living.count(),
        roots=tops["count"],
        shape=f"{tops['count']}.{tops['sum'] or 0}.{min(1, loose.count)}",
        states=_with_errors(moment),
        loose=loose,
    )


def _with_errors(moment: Moment) -> States:
    """Return the counts of all VMs by state; a lieutenant in error counts as nothing else."""
    failed = Lieutenant.objects.filter(status=LieutenantStatus.ERROR)
    placed = Node.objects.active().filter(vm_id__in=failed.values("pk"))
    errors = placed.count()
    vms = VM.objects.filter(_is_unhealthy(moment))
    if not errors:
        return _states(vms, moment)
    others = vms.exclude(pk__in=placed.values("vm_id"))
    return [("error", errors), *_states(others, moment)]


def _unplaced(moment: Moment) -> UnplacedCounts:
    count = _count_unplaced()
    if not count:
        return UnplacedCounts(0, "0", [])
    vms = VM.objects.without_place()
    newest = vms.order_by("-registered_at").values_list("registered_at", flat=True).first()
    states = _states(vms.filter(_is_unhealthy(moment)), moment)
    words = ".".join(f"{word}{number}" for word, number in states)
    return UnplacedCounts(count, f"{count}.{newest:%d%H%M%S%f}.{words}", states)


def _count_unplaced() -> int:
    """Count the VMs of `without_place`, in two index-only steps that take half the time."""
    nodes = Node.objects.filter(vm_id=OuterRef("pk"))
    removed = Node.objects.filter(removed_at__isnull=False).values("vm_id")
    never = VM.objects.filter(~Exists(nodes)).count()
    return never + VM.objects.filter(pk__in=removed).count()


def _is_unhealthy(moment: Moment) -> Q:
    return Q(late_after__lte=moment.at) | Q(late_after__isnull=True)


def _states(unhealthy: QuerySet[VM], moment: Moment) -> States:
    """Count these VMs as silent, late, stopped or paused; states without VMs are left out."""
    silent = Q(silent_after__lte=moment.at)
    found = unhealthy.aggregate(
        silent=Count("pk", filter=silent),
        late=Count("pk", filter=Q(late_after__lte=moment.at) & ~silent),
        stopped=Count("pk", filter=Q(status=Status.STOPPED)),
        paused=Count("pk", filter=Q(status=Status.PAUSED)),
    )
    if moment.grace:
        found["late"], found["silent"] = found["late"] + found["silent"], 0
    return [(word, count) for word, count in found.items() if count]
