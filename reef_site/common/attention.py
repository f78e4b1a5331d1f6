"""Kinds of items that need a person. Each app registers its own; the home page shows them all.

An app declares its kinds in its module `attention` and registers them in `AppConfig.ready`. A new
kind is one registration: order, dismissals, snoozing, keys and counts come from the list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils.functional import Promise

from reef_site.common.hooks import Hook

# How many items of one kind are read, and how many examples of a crowd.
MAX_ITEMS = 300
MAX_EXAMPLES = 20
MAX_TEXT = 120
# An item for which nobody waits counts as this part of one.
_NOBODY_WAITS = 0.1
# Beyond a day, an item does not become more urgent: what is old must not hide what is new.
_MAX_SECONDS = 86_400.0


@dataclass(frozen=True)
class Button:
    """One action of an item: a POST of `fields` to `url`, or a link to a page that asks first."""

    label: str
    url: str
    fields: Mapping[str, str] = field(default_factory=dict)
    is_link: bool = False


@dataclass(frozen=True)
class Item:
    """One problem. `state` selects its icon; items of one `group` are shown as one row."""

    kind: str
    subject: str
    name: str
    # Of hundreds of items few are shown, so a URL with arguments should be a `reverse_lazy`.
    url: str | Promise
    state: str
    label: str
    since: datetime
    text: str
    group: str
    # The VM whose descendants wait, too, and how many wait at the item itself.
    vm_id: str = ""
    waiting: int = 1
    # Called for shown items only.
    make_buttons: Callable[[], Sequence[Button]] = tuple
    # A template that is shown below the row, and what it shows.
    template: str = ""
    data: Any = None

    @property
    def buttons(self) -> Sequence[Button]:
        """Return its actions, the usual one first."""
        return self.make_buttons()

    @property
    def cause(self) -> str:
        """Text that changes when the same subject has another problem, or the same one again."""
        return f"{self.since.isoformat()} {digest(self.text)}"

    def urgency(self, below: int, now: datetime) -> float:
        """Return how many wait, `below` included, times the seconds that they do."""
        seconds = (now - self.since).total_seconds()
        count = max(self.waiting + below, _NOBODY_WAITS)
        return count * min(max(0.0, seconds), _MAX_SECONDS)


@dataclass(frozen=True)
class Crowd:
    """Items that may be thousands: how many are new, how many were dismissed, the newest ones."""

    new: int = 0
    seen: int = 0
    newest: Sequence[Item] = ()


@dataclass(frozen=True)
class AttentionKind:
    """One kind of items. It has one of the two functions, each with a bounded number of queries.

    `find_crowd` gets the time up to which its items were dismissed. Without the organ, the kind
    has no items.
    """

    label: str
    find: Callable[[], Iterable[Item]] | None = None
    find_crowd: Callable[[datetime | None], Crowd] | None = None
    organ: str = ""


attention_kinds: Hook[AttentionKind] = Hook(
    "attention.kinds", "Kinds of items that need a person, for the home page."
)


def digest(text: str) -> str:
    """Return a short digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
