"""The attention list: the most urgent first, similar items in one row, without hidden ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.utils import timezone

from reef_site.attention import items
from reef_site.attention.models import MAX_ROWS, Seen, Snooze
from reef_site.common import clock
from reef_site.common.attention import Crowd, Item, digest
from vmtree.queries.nodes import count_descendants_of_vms

MAX_SHOWN = 20
# Also of the items of one row.
MAX_ALL = 300
# From this many similar items on, they share one row.
MIN_GROUP_SIZE = 3

Person = AbstractBaseUser | AnonymousUser


@dataclass(frozen=True)
class Hiding:
    """The person who has seen a hidden item or group, or the time until which it is snoozed."""

    cause: str
    reason: str
    subject: str
    is_snooze: bool = False

    @property
    def until(self) -> datetime | None:
        """Return the time up to which items of a group are hidden; None if it is no group."""
        return clock.parse_iso(self.cause) if self.subject.startswith("group:") else None


# An item, and why it is hidden.
_Found = tuple[Item, Hiding | None]


@dataclass(frozen=True)
class Row:
    """One item, or several similar ones, the newest first (of a crowd, only the newest)."""

    members: list[Item]
    count: int
    # How many VMs wait below (of a group: below the member that has most), and how urgent it is.
    below: int = 0
    lead_index: int = 0
    urgency: float = 0.0
    hiding: Hiding | None = None

    @property
    def newest(self) -> Item:
        """The item whose time the row shows."""
        return self.members[0]

    @property
    def lead(self) -> Item:
        """The item that stands for the row, with most VMs below."""
        return self.members[self.lead_index]

    @property
    def is_group(self) -> bool:
        """Return whether the row stands for several items."""
        return self.count > 1

    @property
    def kind_label(self) -> str:
        """Name of the kind, in plural."""
        return items.kinds()[self.newest.kind].label

    @property
    def title(self) -> str:
        """Name of the row in its buttons."""
        return f"all {self.count:,}" if self.is_group else self.newest.name

    @property
    def subject(self) -> str:
        """Subject that is stored when the row is dismissed or snoozed."""
        return group_subject(self.newest) if self.is_group else self.newest.subject

    @property
    def cause(self) -> str:
        """The row stays hidden while this text stays the same."""
        return self.newest.since.isoformat() if self.is_group else self.newest.cause

    @cached_property
    def key(self) -> str:
        """Element id for the page, stable while the row is about the same subject."""
        return digest(f"{self.newest.kind} {self.subject}")


@dataclass(frozen=True)
class Tab:
    """A filter of the list: one kind, and its number of rows."""

    key: str
    label: str
    count: int


@dataclass(frozen=True)
class Listing:
    """Rows to show; the numbers of all rows, of those left out, and of hidden items."""

    rows: list[Row] = field(default_factory=list)
    tabs: list[Tab] = field(default_factory=list)
    kind: str = ""
    group: Row | None = None
    count: int = 0
    more: int = 0
    hidden: int = 0
    shows_hidden: bool = False
    shows_all: bool = False


def group_subject(item: Item) -> str:
    """Return the subject under which a whole group is hidden."""
    return f"group:{item.group}"


class _Hidden:
    """Items, by their causes, and groups, up to a moment, that are hidden from one person."""

    def __init__(self, user: Person) -> None:
        # A newer mark does not end an older one, which may have another cause.
        self._rows: dict[tuple[str, str], list[Hiding]] = {}
        seen = Seen.objects.values_list("kind", "subject", "cause", "actor")[:MAX_ROWS]
        for kind, subject, cause, actor in seen:
            self._add(kind, Hiding(cause, f"seen by {actor}", subject))
        snoozed = Snooze.objects.filter(user=user.pk, until__gt=timezone.now())
        columns = ("kind", "subject", "cause", "until")
        for kind, subject, cause, until in snoozed.values_list(*columns)[:MAX_ROWS]:
            reason = f"snoozed until {timezone.localtime(until):%Y-%m-%d %H:%M %Z}"
            self._add(kind, Hiding(cause, reason, subject, is_snooze=True))

    def _add(self, kind: str, hiding: Hiding) -> None:
        self._rows.setdefault((kind, hiding.subject), []).append(hiding)

    def crowds(self) -> dict[str, datetime]:
        """Map kinds with crowds to the times up to which their items are hidden."""
        found = dict[str, datetime]()
        for (kind, subject), hidings in self._rows.items():
            times = [each.until for each in hidings if each.until]
            if times and _is_crowd(kind, subject):
                found[kind] = max(times)
        return found

    def of(self, item: Item) -> Hiding | None:
        """Return why the item is hidden; None if it is not."""
        alone = self._rows.get((item.kind, item.subject), ())
        groups = self._rows.get((item.kind, group_subject(item)), ())
        found = [each for each in alone if each.cause == item.cause]
        found += [each for each in groups if each.until and item.since <= each.until]
        # A snooze comes last, and is what the person has asked for.
        return found[-1] if found else None


def _is_crowd(kind: str, subject: str) -> bool:
    found = items.kinds().get(kind)
    return bool(found and found.find_crowd and subject.startswith("group:"))


def listing(
    user: Person,
    *,
    hidden: bool = False,
    kind: str = "",
    group: str = "",
    shows_all: bool = False,
) -> Listing:
    """Return what needs this person now; with `hidden`, what was dismissed or snoozed instead.

    `kind` is the only kind to show, `group` the key of a row whose items are shown instead. Without
    `shows_all`, only the first `MAX_SHOWN` rows are shown.
    """
    marks = _Hidden(user)
    found = [(item, marks.of(item)) for item in items.find_items()]
    crowds = items.find_crowds(marks.crowds())
    selected = [pair for pair in found if bool(pair[1]) == hidden]
    waiting = _Waiting(selected, crowds)
    rows = _grouped(selected, waiting)
    for crowd in crowds.values():
        rows += _crowd_rows(crowd, marks, waiting, hidden=hidden)
    rows.sort(key=lambda row: row.urgency, reverse=True)
    shown = [row for row in rows if not kind or row.newest.kind == kind]
    opened = next((row for row in rows if group and row.key == group), None)
    if opened:
        shown = [waiting.row([item], 1, opened.hiding) for item in opened.members]
    limit = MAX_ALL if shows_all or opened else MAX_SHOWN
    return Listing(
        rows=shown[:limit],
        tabs=_tabs(rows),
        kind=kind,
        count=len(rows),
        more=(opened.count if opened else len(shown)) - len(shown[:limit]),
        group=opened,
        hidden=sum(1 for _, hiding in found if hiding) + sum(each.seen for each in crowds.values()),
        shows_hidden=hidden,
        shows_all=limit == MAX_ALL,
    )


def count_rows(user: Person) -> int:
    """Return the number of rows that need this person, as in `Listing.count`."""
    marks = _Hidden(user)
    shown = ((item, None) for item in items.find_items() if not marks.of(item))
    count = sum(len(each) if len(each) < MIN_GROUP_SIZE else 1 for each in _groups(shown))
    for crowd in items.find_crowds(marks.crowds()).values():
        new = sum(1 for item in crowd.newest if not marks.of(item))
        count += 1 if new and crowd.new >= MIN_GROUP_SIZE else new
    return count


class _Waiting:
    """Numbers of VMs below the items' VMs, from one query, and the time of this list."""

    def __init__(self, selected: Iterable[_Found], crowds: dict[str, Crowd]) -> None:
        vm_ids = {item.vm_id for item, _ in selected if item.vm_id}
        vm_ids |= {item.vm_id for crowd in crowds.values() for item in crowd.newest}
        self._below = count_descendants_of_vms(vm_ids)
        self._now = timezone.now()

    def below(self, item: Item) -> int:
        return self._below.get(item.vm_id, 0)

    def urgency(self, item: Item) -> float:
        return item.urgency(self.below(item), self._now)

    def row(self, members: Sequence[Item], count: int, hiding: Hiding | None) -> Row:
        """Return the row of some items; those beyond `members` count like the newest one."""
        urgency = sum(self.urgency(item) for item in members)
        urgency += (count - len(members)) * self.urgency(members[0])
        below = [self.below(item) for item in members]
        lead = below.index(max(below))
        return Row(list(members), count, below[lead], lead, urgency, hiding)


def _groups(found: Iterable[_Found]) -> Iterable[list[_Found]]:
    """Return the items by kind and group."""
    groups: dict[tuple[str, str], list[_Found]] = {}
    for item, hiding in found:
        groups.setdefault((item.kind, item.group), []).append((item, hiding))
    return groups.values()


def _grouped(found: Iterable[_Found], waiting: _Waiting) -> list[Row]:
    """Return the items as rows, in no particular order."""
    rows = []
    for group in _groups(found):
        group.sort(key=lambda pair: pair[0].since, reverse=True)
        if len(group) < MIN_GROUP_SIZE:
            rows += [waiting.row([item], 1, hiding) for item, hiding in group]
        else:
            rows.append(waiting.row([item for item, _ in group], len(group), group[0][1]))
    return rows


def _crowd_rows(crowd: Crowd, marks: _Hidden, waiting: _Waiting, *, hidden: bool) -> list[Row]:
    """Return the rows of a crowd: one for many items, else one for each."""
    shown = [(item, marks.of(item)) for item in crowd.newest]
    shown = [pair for pair in shown if bool(pair[1]) == hidden]
    count = crowd.seen if hidden else crowd.new
    if shown and count >= MIN_GROUP_SIZE:
        return [waiting.row([item for item, _ in shown], count, shown[0][1])]
    return [waiting.row([item], 1, hiding) for item, hiding in shown]


def _tabs(rows: Sequence[Row]) -> list[Tab]:
    counts: dict[str, int] = {}
    kinds = items.kinds()
    for row in rows:
        counts[row.newest.kind] = counts.get(row.newest.kind, 0) + 1
    return [Tab(key, kinds[key].label, count) for key, count in counts.items()]
