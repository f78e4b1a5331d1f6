"""The row above all roots: how many VMs there are, and how many of them are in which trouble.

It counts the whole fleet. Where that takes long the figures are kept for a moment, for all who
look at this process's pages; the row then says when to ask for it again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Sum

from lieutenants.models import Lieutenant
from lieutenants.states import Status as LieutenantStatus
from reef_site.fleet.lines import Moment
from registry.models import VM, Status
from vmtree.models import Node

# Smaller fleets are counted each time.
MANY = 20_000
# Kept figures serve for so many times as long as counting took, and for no longer than this.
WORTH = 25.0
LONGEST_SECONDS = 5.0
# From good to bad: the last one that anybody is in is the worst.
_BY_RANK = ("paused", "stopped", "late", "silent")

States = list[tuple[str, int]]


@dataclass(frozen=True)
class Roof:
    """What all VMs together are."""

    total: int
    roots: int
    shape: str
    states: States
    loose: Loose
    # When this is worth asking for again, because it is not of now; 0 if it is.
    again_ms: int = 0


@dataclass(frozen=True)
class Loose:
    """Those of the registry that have no place in the tree."""

    count: int
    shape: str
    states: States

    @property
    def worst(self) -> str:
        """The worst state that one of them is in, if any is paused or worse."""
        found = dict(self.states)
        return next((word for word in reversed(_BY_RANK) if word in found), "")


@dataclass
class _Kept:
    """The newest figures, and until when they serve."""

    roof: Roof | None = None
    until: float = 0.0


_kept = _Kept()


def roof(moment: Moment) -> Roof:
    """The figures as of now, or kept ones if the fleet is a large one."""
    now = time.monotonic()
    if _kept.roof and now < _kept.until:
        return replace(_kept.roof, again_ms=int((_kept.until - now) * 1000) + 1)
    found = counted(moment)
    if found.total + found.loose.count >= MANY:
        spent = time.monotonic() - now
        _kept.roof, _kept.until = found, now + min(LONGEST_SECONDS, WORTH * spent)
    return found


def forget() -> None:
    """Count at the next question."""
    _kept.until = 0.0


def counted(moment: Moment) -> Roof:
    """The figures as of now."""
    living = Node.objects.living()
    tops = living.roots().aggregate(count=Count("pk"), sum=Sum("pk"))
    loose = _loose(moment)
    return Roof(
        total=living.count(),
        roots=tops["count"],
        shape=f"{tops['count']}.{tops['sum'] or 0}.{min(1, loose.count)}",
        states=_with_errors(moment),
        loose=loose,
    )


def _with_errors(moment: Moment) -> States:
    """Return the states of all VMs; a lieutenant in error is counted as such and nothing else."""
    failed = Lieutenant.objects.filter(status=LieutenantStatus.ERROR)
    placed = Node.objects.living().filter(vm_id__in=failed.values("pk"))
    errors = placed.count()
    vms = VM.objects.filter(_troubled(moment))
    if not errors:
        return _states(vms, moment)
    others = vms.exclude(pk__in=placed.values("vm_id"))
    return [("error", errors), *_states(others, moment)]


def _loose(moment: Moment) -> Loose:
    count = _count_loose()
    if not count:
        return Loose(0, "0", [])
    vms = VM.objects.without_place()
    newest = vms.order_by("-registered_at").values_list("registered_at", flat=True).first()
    states = _states(vms.filter(_troubled(moment)), moment)
    words = ".".join(f"{word}{number}" for word, number in states)
    return Loose(count, f"{count}.{newest:%d%H%M%S%f}.{words}", states)


def _count_loose() -> int:
    """How many `without_place` are; in two steps that read indexes only, in half the time."""
    nodes = Node.objects.filter(vm_id=OuterRef("pk"))
    removed = Node.objects.filter(removed_at__isnull=False).values("vm_id")
    never = VM.objects.filter(~Exists(nodes)).count()
    return never + VM.objects.filter(pk__in=removed).count()


def _troubled(moment: Moment) -> Q:
    return Q(late_after__lte=moment.at) | Q(late_after__isnull=True)


def _states(troubled: QuerySet[VM], moment: Moment) -> States:
    """How many of these are silent, late, stopped, paused; words with none are left out."""
    silent = Q(silent_after__lte=moment.at)
    found = troubled.aggregate(
        silent=Count("pk", filter=silent),
        late=Count("pk", filter=Q(late_after__lte=moment.at) & ~silent),
        stopped=Count("pk", filter=Q(status=Status.STOPPED)),
        paused=Count("pk", filter=Q(status=Status.PAUSED)),
    )
    if moment.grace:
        found["late"], found["silent"] = found["late"] + found["silent"], 0
    return [(word, count) for word, count in found.items() if count]
