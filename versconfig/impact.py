"""Before a change is made: who gets another value by it, and what must be started anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reef_site.common.hooks import Hook
from versconfig import config, scopes, values
from versconfig.exceptions import Unreadable
from versconfig.keys import Key, Takes
from versconfig.models import Setting
from versconfig.services import Wish
from vmtree.models import Node

MOST_NAMED = 12

# Takes a key and the primary keys of the nodes whose value changes; returns names.
FindRestarts = Callable[[Key, set[int]], list[str]]
restart_finders: Hook[FindRestarts] = Hook(
    "config.restart_finders", "Name what must be restarted to take a changed value."
)


@dataclass(frozen=True)
class Impact:
    """What a wish would do. Values are masked where they are secret."""

    wish: Wish
    before: str | None
    after: str | None
    # Whether the value becomes another for anybody.
    changes: bool = False
    # Who gets another value: how many nodes, and the names of some.
    count: int = 0
    names: tuple[str, ...] = ()
    # How many nodes below the scope keep their own nearer value.
    keep: int = 0
    # What shadows the whole store; empty if nothing does.
    shadowed_by: str = ""
    # What must be started anew, by name.
    restart: tuple[str, ...] = ()

    @property
    def takes(self) -> Takes:
        """When it is felt."""
        return self.wish.key.takes

    @property
    def more(self) -> int:
        """How many get another value beside those that are named."""
        return self.count - len(self.names)


def of(wish: Wish, mask: int = values.MASK_OPERATOR) -> Impact:
    """What the wish would do if it were made true now; `mask` characters of secrets are shown."""
    key, target = wish.key, wish.target
    behind = config.inherited(key, target)
    row = Setting.objects.at_place(key.name, target.scope, target.node).first()
    old, new = _text(row) or behind.value, wish.text or behind.value
    before, after = (values.shown(key, text, mask) for text in (old, new))
    if (above := config.environment(key)).speaks:
        return Impact(wish, before, after, shadowed_by=above.where)
    if old == new:
        return Impact(wish, before, after)
    reached = scopes.reached(key, target) if key.scoped else set()
    everyone = scopes.count_below(target) if key.scoped else 0
    return Impact(
        wish,
        before,
        after,
        changes=True,
        count=len(reached),
        names=_names(reached),
        keep=everyone - len(reached),
        restart=tuple(name for find in restart_finders for name in find(key, reached)),
    )


def _text(row: Setting | None) -> str | None:
    try:
        return row.text() if row else None
    except Unreadable:
        return None


def _names(reached: set[int]) -> tuple[str, ...]:
    """Of some of these nodes, the oldest first."""
    some = Node.objects.filter(pk__in=sorted(reached)[:MOST_NAMED])
    return tuple(node.name or node.vm_id for node in some)
