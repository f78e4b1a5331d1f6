"""Covers secrets in rows that were stored before the secrets were known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Model

from lieutenants import queries
from lieutenants.models import Answer, Entry, Lieutenant, Message, Move, Process
from registry.models import VM
from registry.rules.models import Firing, Rule
from versconfig.screening import sources
from versconfig.screening.screen import Screen

_BATCH = 200
# Columns with texts of agents, operators and providers. Final entries have no chunks.
COLUMNS: dict[type[Model], tuple[str, ...]] = {
    Entry: ("text", "data", "tool"),
    Answer: ("text", "error"),
    Message: ("text", "note", "evidence"),
    Lieutenant: (
        *("role", "directive", "system_prompt", "error", "trouble", "waiting_for"),
        *("failures", "model_problem", "next_sign_reason"),
    ),
    Process: ("stderr", "end_reason", "agent"),
    Move: ("reason",),
    Rule: ("text", "about"),
    Firing: ("outcome", "evidence"),
    VM: ("name", "metadata"),
}


@dataclass
class Findings:
    """Number of rows with secrets per table, and the names of these secrets."""

    rows: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)


def cover_old_rows(*, apply: bool) -> Findings:
    """Find rows that contain secrets; with `apply` cover those that have not changed since.

    Raises DatabaseError.
    """
    if apply:
        queries.overwrite_deleted_data()
    screen, found = sources.current(recheck=True), Findings()
    for model, columns in COLUMNS.items():
        for row in _rows(model, columns):
            changed = _covered(screen, row, columns, found.names)
            if not changed:
                continue
            found.rows[str(model._meta.verbose_name_plural)] += 1
            if apply:
                _update(model, row, changed)
    return found


def _rows(model: type[Model], columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield all rows ordered by primary key, read in batches."""
    rows = model._default_manager.order_by("pk").values("pk", *columns)
    if model is Entry:
        rows = rows.filter(final=True)
    batch = list(rows[:_BATCH])
    while batch:
        yield from batch
        batch = list(rows.filter(pk__gt=batch[-1]["pk"])[:_BATCH])


def _covered(
    screen: Screen, row: dict[str, Any], columns: tuple[str, ...], names: set[str]
) -> dict[str, Any]:
    """Return the columns that must change."""
    after = {name: screen.cover_value(row[name], names) for name in columns}
    return {name: value for name, value in after.items() if value != row[name]}


def _update(model: type[Model], row: dict[str, Any], changed: dict[str, Any]) -> None:
    texts = {name: row[name] for name in changed if isinstance(row[name], str)}
    model._default_manager.filter(pk=row["pk"], **texts).update(**changed)
