"""Preview of a change: which nodes get another value, and what has to be restarted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from reef_site.common.hooks import Hook
from reef_site.common.lists.bulk import MAX_ROWS
from versconfig import config, scopes, values
from versconfig.exceptions import Unreadable
from versconfig.keys import Key, TakesEffect
from versconfig.models import Setting
from versconfig.services import SettingChange
from vmtree.models import Node

MAX_NAMES = 12


class Restart(NamedTuple):
    """A needed restart: the name of the row, and its key in this list (see `common.lists.bulk`)."""

    name: str
    key: str
    list: str


# Takes a key and the primary keys of the nodes whose value changes.
FindRestarts = Callable[[Key, set[int]], list[Restart]]
restart_finders: Hook[FindRestarts] = Hook(
    "config.restart_finders", "Name what must be restarted to take a changed value."
)


@dataclass(frozen=True)
class Impact:
    """The effects of a change. Secret values are masked."""

    change: SettingChange
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
    overridden_by: str = ""
    restarts: tuple[Restart, ...] = ()

    @property
    def takes(self) -> TakesEffect:
        """Return when the change takes effect."""
        return self.change.key.takes

    @property
    def restart(self) -> tuple[str, ...]:
        """Return the names of what must be restarted."""
        return tuple(each.name for each in self.restarts)

    @property
    def can_plan(self) -> bool:
        """Return whether the restarts fit into one plan, see `lists.bulk`."""
        return 0 < len(self.restarts) <= MAX_ROWS

    @property
    def more(self) -> int:
        """Return how many nodes get another value besides the named ones."""
        return self.count - len(self.names)


def preview(change: SettingChange, mask: int = values.MASK_OPERATOR) -> Impact:
    """Preview a change made now; at most `mask` characters of a secret are shown."""
    key, target = change.key, change.target
    behind = config.inherited(key, target)
    row = Setting.objects.for_scope(key.name, target.scope, target.node).first()
    old, new = _text(row) or behind.value, change.text or behind.value
    before, after = (values.shown(key, text, mask) for text in (old, new))
    if (above := config.environment(key)).has_value:
        return Impact(change, before, after, overridden_by=above.where)
    if old == new:
        return Impact(change, before, after)
    reached = scopes.affected_nodes(key, target) if key.scoped else set()
    everyone = scopes.count_below(target) if key.scoped else 0
    return Impact(
        change,
        before,
        after,
        changes=True,
        count=len(reached),
        names=_names(reached),
        keep=everyone - len(reached),
        restarts=tuple(each for find in restart_finders for each in find(key, reached)),
    )


def _text(row: Setting | None) -> str | None:
    try:
        return row.text() if row else None
    except Unreadable:
        return None


def _names(reached: set[int]) -> tuple[str, ...]:
    """Return the names of some of these nodes, oldest first."""
    some = Node.objects.filter(pk__in=sorted(reached)[:MAX_NAMES])
    return tuple(node.name or node.vm_id for node in some)
