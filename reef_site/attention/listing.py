"""The list of what needs a look: newest first, alike items in one row, without what was seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from reef_site.attention import items
from reef_site.attention.items import Item
from reef_site.attention.models import MAX_ROWS, Kind, Seen
from reef_site.common import clock

MAX_SHOWN = 20
# So many alike items stand in one row.
LEAST_OF_A_GROUP = 3
MAX_MEMBERS = 50


@dataclass(frozen=True)
class Row:
    """One item, or several that are alike, the newest first."""

    members: list[Item]
    count: int
    seen_by: str = ""

    @property
    def newest(self) -> Item:
        """The one that it is sorted by."""
        return self.members[0]

    @property
    def is_group(self) -> bool:
        """Whether it stands for several."""
        return self.count > 1

    @property
    def title(self) -> str:
        """What it is called where it is marked."""
        return f"all {self.count:,}" if self.is_group else self.newest.name

    @property
    def more(self) -> int:
        """How many are not listed."""
        return self.count - len(self.members)

    @property
    def subject(self) -> str:
        """What is noted as seen."""
        return group_subject(self.newest) if self.is_group else self.newest.subject

    @property
    def cause(self) -> str:
        """As long as this is the same, it stays seen."""
        return self.newest.since.isoformat() if self.is_group else self.newest.cause

    @property
    def key(self) -> str:
        """A mark for the page: the same for as long as the row is about the same."""
        return items.digest(f"{self.newest.kind} {self.subject}")


@dataclass(frozen=True)
class Listing:
    """The rows to show, and how many items there are."""

    rows: list[Row] = field(default_factory=list)
    count: int = 0
    more: int = 0
    seen: int = 0
    shows_seen: bool = False


def group_subject(item: Item) -> str:
    """Return what a whole group is noted as."""
    return f"group:{item.group}"


class _Notes:
    """What was seen: items by their causes, groups up to a moment."""

    def __init__(self) -> None:
        rows = Seen.objects.values_list("kind", "subject", "cause", "actor")[:MAX_ROWS]
        self._notes = {(kind, subject): (cause, actor) for kind, subject, cause, actor in rows}

    def seen_until(self, kind: str, subject: str) -> datetime | None:
        cause, _ = self._notes.get((kind, subject), ("", ""))
        return clock.parse_iso(cause) if cause else None

    def seen_by(self, item: Item) -> str:
        """Return who has seen it, empty if nobody has."""
        cause, actor = self._notes.get((item.kind, item.subject), ("", ""))
        if cause == item.cause:
            return actor
        until = self.seen_until(item.kind, group_subject(item))
        if until is not None and item.since <= until:
            return self._notes[item.kind, group_subject(item)][1]
        return ""


def listing(*, seen: bool = False) -> Listing:
    """Return what needs a look now; with `seen` what needs none because it was seen."""
    notes = _Notes()
    everything = [(item, notes.seen_by(item)) for item in items.found()]
    silent = items.silent_vms(notes.seen_until(Kind.VM, "group:silent"))
    wanted = [(item, by) for item, by in everything if bool(by) == seen]
    rows = [*_grouped(wanted), *_silent(silent, notes, seen=seen)]
    rows.sort(key=lambda row: row.newest.since, reverse=True)
    return Listing(
        rows=rows[:MAX_SHOWN],
        count=sum(row.count for row in rows),
        more=sum(row.count for row in rows[MAX_SHOWN:]),
        seen=sum(1 for _, by in everything if by) + silent.seen,
        shows_seen=seen,
    )


def _grouped(found: Iterable[tuple[Item, str]]) -> list[Row]:
    """Return the items as rows; the order of the rows is not set yet."""
    groups: dict[tuple[str, str], list[tuple[Item, str]]] = {}
    for item, by in found:
        groups.setdefault((item.kind, item.group), []).append((item, by))
    rows = []
    for group in groups.values():
        group.sort(key=lambda pair: pair[0].since, reverse=True)
        if len(group) < LEAST_OF_A_GROUP:
            rows += [Row([item], 1, by) for item, by in group]
        else:
            members = [item for item, _ in group[:MAX_MEMBERS]]
            rows.append(Row(members, len(group), group[0][1]))
    return rows


def _silent(silent: items.Silent, notes: _Notes, *, seen: bool) -> list[Row]:
    """Return the rows of silent VMs: one for many, else one for each."""
    shown = [(item, notes.seen_by(item)) for item in silent.newest]
    shown = [(item, by) for item, by in shown if bool(by) == seen]
    count = silent.seen if seen else silent.new
    if shown and count >= LEAST_OF_A_GROUP:
        return [Row([item for item, _ in shown], count, shown[0][1])]
    return [Row([item], 1, by) for item, by in shown]
