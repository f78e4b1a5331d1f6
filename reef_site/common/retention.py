"""Retention rules of all apps: one hook, for the page Storage and for the tick that deletes.

An app registers a `Rule` for each kind of row or file that it owns. `storage.prune` calls the
`prune` of each rule; rows that are deleted elsewhere have a rule without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db.models import Model, QuerySet

from reef_site.common.hooks import Hook

FOREVER = "no limit"
# How long one statement may keep other writers waiting.
_TARGET_SECONDS = 0.005
_FIRST_SIZE, _MIN_SIZE, _MAX_SIZE = 100, 10, 2000
# After so long the rest waits for the next tick.
MAX_SECONDS = 10.0


@dataclass(frozen=True)
class Rule:
    """The retention rule of one kind of row or file.

    `kept` returns that in words. `settings` are the environment variables that change it, `tables`
    the names of database tables, `folders` the parts of a data folder that it is about. `prune`
    deletes what is older, in short transactions, and returns how many rows or files it deleted.
    """

    title: str
    kept: Callable[[], str]
    settings: tuple[str, ...] = ()
    tables: tuple[type[Model], ...] = ()
    folders: tuple[str, ...] = ()
    prune: Callable[[], int] | None = None


retention_rules: Hook[Rule] = Hook(
    "retention.rules", "How long each kind of row or file is kept, and what deletes older ones."
)


def days(count: int) -> str:
    """Return a period in words; 0 days means that there is no limit."""
    if count == 0:
        return FOREVER
    return "1 day" if count == 1 else f"{count} days"


def in_batches(rows: QuerySet[Any], change: Callable[[QuerySet[Any]], object]) -> int:
    """Pass the rows to `change` in batches of some milliseconds each; return how many there were.

    `change` must delete its rows, or change them so that `rows` does not have them any more. The
    next tick continues after `MAX_SECONDS`.
    """
    size, count, end = _FIRST_SIZE, 0, time.monotonic() + MAX_SECONDS
    while time.monotonic() < end:
        keys = list(rows.values_list("pk", flat=True)[:size])
        if not keys:
            break
        began = time.monotonic()
        change(rows.model._default_manager.filter(pk__in=keys))
        took = max(time.monotonic() - began, 1e-6)
        count += len(keys)
        size = max(_MIN_SIZE, min(_MAX_SIZE, int(size * min(2.0, _TARGET_SECONDS / took))))
    return count


def delete_in_batches(rows: QuerySet[Any]) -> int:
    """Delete rows in batches of some milliseconds each; return how many there were."""
    return in_batches(rows, lambda some: some.delete())
