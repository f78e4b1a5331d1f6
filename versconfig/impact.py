"""Preview of a change: which nodes get another value, and what has to be restarted."""

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
    """The effects of a change. Secret values are masked."""

    wish: Wish
    before: str | None
    after: str | None
    # Whether any node gets another value.
    changes: bool = False
    # Nodes that get another value: their number, and the names of some.
    count: int = 0
    names: tuple[str, ...] = ()
    # Number of nodes below the scope that keep their own value.
    keep: int = 0
    # The layer that overrides the whole store; empty if there is none.
    shadowed_by: str = ""
    # Names of what must be restarted.
    restart: tuple[str, ...] = ()

    @property
    def takes(self) -> Takes:
        """Return when the change takes effect."""
        return self.wish.key.takes

    @property
    def more(self) -> int:
        """Return how many nodes get another value besides the named ones."""
        return self.count - len(self.names)


def of(wish: Wish, mask: int = values.MASK_OPERATOR) -> Impact:
    """Preview a change made now; at most `mask` characters of a secret are shown."""
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
    """Return the names of some of these nodes, oldest first."""
    some = Node.objects.filter(pk__in=sorted(reached)[:MOST_NAMED])
    return tuple(node.name or node.vm_id for node in some)
