"""The attention list: newest first, similar items in one row, without dismissed ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from reef_site.attention import items
from reef_site.attention.items import Item
from reef_site.attention.models import MAX_ROWS, Kind, Seen
from reef_site.common import clock

MAX_SHOWN = 20
# From this many similar items on, they share one row.
MIN_GROUP_SIZE = 3
MAX_MEMBERS = 50


@dataclass(frozen=True)
class Row:
    """One item, or several similar ones, the newest first."""

    members: list[Item]
    count: int
    seen_by: str = ""

    @property
    def newest(self) -> Item:
        """The item that the row is sorted by."""
        return self.members[0]

    @property
    def is_group(self) -> bool:
        """Return whether the row stands for several items."""
        return self.count > 1

    @property
    def title(self) -> str:
        """Name of the row in the button that dismisses it."""
        return f"all {self.count:,}" if self.is_group else self.newest.name

    @property
    def more(self) -> int:
        """Number of items beyond the listed ones."""
        return self.count - len(self.members)

    @property
    def subject(self) -> str:
        """Subject that is stored when the row is dismissed."""
        return group_subject(self.newest) if self.is_group else self.newest.subject

    @property
    def cause(self) -> str:
        """The row stays dismissed while this text stays the same."""
        return self.newest.since.isoformat() if self.is_group else self.newest.cause

    @property
    def key(self) -> str:
        """Element id for the page, stable while the row is about the same subject."""
        return items.digest(f"{self.newest.kind} {self.subject}")


@dataclass(frozen=True)
class Listing:
    """Rows to show, and the numbers of open, hidden and dismissed items."""

    rows: list[Row] = field(default_factory=list)
    count: int = 0
    more: int = 0
    seen: int = 0
    shows_seen: bool = False


def group_subject(item: Item) -> str:
    """Return the subject under which a whole group is dismissed."""
    return f"group:{item.group}"


class _Dismissals:
    """Dismissals: items by their causes, groups up to a moment."""

    def __init__(self) -> None:
        rows = Seen.objects.values_list("kind", "subject", "cause", "actor")[:MAX_ROWS]
        self._rows = {(kind, subject): (cause, actor) for kind, subject, cause, actor in rows}

    def seen_until(self, kind: str, subject: str) -> datetime | None:
        cause, _ = self._rows.get((kind, subject), ("", ""))
        return clock.parse_iso(cause) if cause else None

    def seen_by(self, item: Item) -> str:
        """Return the name of the person who dismissed the item; empty if nobody did."""
        cause, actor = self._rows.get((item.kind, item.subject), ("", ""))
        if cause == item.cause:
            return actor
        until = self.seen_until(item.kind, group_subject(item))
        if until is not None and item.since <= until:
            return self._rows[item.kind, group_subject(item)][1]
        return ""


def listing(*, seen: bool = False) -> Listing:
    """Return what needs attention now; with `seen`, what was dismissed instead."""
    dismissals = _Dismissals()
    all_items = [(item, dismissals.seen_by(item)) for item in items.find_items()]
    silent = items.silent_vms(dismissals.seen_until(Kind.VM, "group:silent"))
    selected = [(item, by) for item, by in all_items if bool(by) == seen]
    rows = [*_grouped(selected), *_silent(silent, dismissals, seen=seen)]
    rows.sort(key=lambda row: row.newest.since, reverse=True)
    return Listing(
        rows=rows[:MAX_SHOWN],
        count=sum(row.count for row in rows),
        more=sum(row.count for row in rows[MAX_SHOWN:]),
        seen=sum(1 for _, by in all_items if by) + silent.seen,
        shows_seen=seen,
    )


def _grouped(found: Iterable[tuple[Item, str]]) -> list[Row]:
    """Return the items as rows, in no particular order."""
    groups: dict[tuple[str, str], list[tuple[Item, str]]] = {}
    for item, by in found:
        groups.setdefault((item.kind, item.group), []).append((item, by))
    rows = []
    for group in groups.values():
        group.sort(key=lambda pair: pair[0].since, reverse=True)
        if len(group) < MIN_GROUP_SIZE:
            rows += [Row([item], 1, by) for item, by in group]
        else:
            members = [item for item, _ in group[:MAX_MEMBERS]]
            rows.append(Row(members, len(group), group[0][1]))
    return rows


def _silent(silent: items.SilentVMs, dismissals: _Dismissals, *, seen: bool) -> list[Row]:
    """Return the rows of silent VMs: one for many, else one for each."""
    shown = [(item, dismissals.seen_by(item)) for item in silent.newest]
    shown = [(item, by) for item, by in shown if bool(by) == seen]
    count = silent.seen if seen else silent.new
    if shown and count >= MIN_GROUP_SIZE:
        return [Row([item for item, _ in shown], count, shown[0][1])]
    return [Row([item], 1, by) for item, by in shown]
