"""A new key for the vault: everything sealed is sealed anew, then old keys are forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from django.conf import settings
from django.db import transaction

from reef_site.common import database_locks
from reef_site.common.database_locks import DatabaseLock
from versconfig import vault
from versconfig.exceptions import Unreadable
from versconfig.models import Held, Setting, Version

_AT_ONCE = 500

# Seals a table's rows anew; how many, and which cannot be read.
Reseal = Callable[[], tuple[int, list[str]]]
_others: dict[str, Reseal] = {}


@dataclass(frozen=True)
class Rotated:
    """How many rows were sealed anew, and which could not be read with any key."""

    count: int
    lost: list[str]
    # Whether the key that seals comes from the environment, where only people can change it.
    by_environment: bool


def register(table: str, reseal: Reseal) -> None:
    """Have this called at each rotation, in its transaction; for `AppConfig.ready`."""
    _others[table] = reseal


def rotate() -> Rotated:
    """Make a new key (unless the environment names the first), seal all with it, drop the others.

    It may be killed anywhere: old keys stay until the rows are committed. Rows that none of the
    keys at hand can read stay as they are.
    """
    by_environment = bool(settings.CONFIG_KEYS)
    with transaction.atomic():
        # Whoever writes after this seals with the new key; whoever wrote before has committed.
        database_locks.lock(DatabaseLock.VAULT_KEYS)
        old = [key for key in vault.kept() if key not in settings.CONFIG_KEYS]
        if not by_environment:
            vault.put_first()
        count, lost = 0, []
        ours: list[Reseal] = [partial(_reseal, model) for model in (Setting, Version)]
        for reseal in (*ours, *_others.values()):
            resealed, unread = reseal()
            count += resealed
            lost += unread
    vault.forget(old)
    return Rotated(count, lost, by_environment)


def _reseal(model: type[Setting] | type[Version]) -> tuple[int, list[str]]:
    """Seal this table's rows with the first key; how many, and which cannot be read."""
    count, lost, last = 0, [], 0
    while rows := _some(model, last):
        for row in rows:
            try:
                sealed = vault.seal(row.key, row.text())
            except Unreadable:
                lost.append(f"{row} ({model.__name__.lower()} {row.pk})")
                continue
            model.objects.filter(pk=row.pk).update(sealed=sealed)
            count += 1
        last = rows[-1].pk
    return count, lost


def _some(model: type[Held], after: int) -> list[Setting] | list[Version]:
    rows = model.objects.select_related("node").filter(pk__gt=after)  # type: ignore[attr-defined]
    found: list[Setting] | list[Version] = list(rows.exclude(sealed="").order_by("pk")[:_AT_ONCE])
    return found
