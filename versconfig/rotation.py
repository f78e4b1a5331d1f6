"""Rotation of the vault's key: all secrets are encrypted again, then old keys are deleted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from django.conf import settings
from django.db import transaction

from reef_site.common import database_locks
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.hooks import Hook
from versconfig import vault
from versconfig.exceptions import Unreadable
from versconfig.models import Setting, StoredValue, Version

BATCH_SIZE = 500

# Encrypts a table's rows again; returns their number, and those that cannot be read.
Reencrypt = Callable[[], tuple[int, list[str]]]
reencrypt_tables: Hook[Reencrypt] = Hook(
    "config.reencrypt_tables",
    "Encrypt the secrets of a table with the newest config key, in the rotation's transaction.",
)


@dataclass(frozen=True)
class Rotated:
    """The number of encrypted rows, and those that could not be read with any key."""

    count: int
    unreadable: list[str]
    # Whether the encrypting key comes from the environment, where only people can change it.
    by_environment: bool


def rotate() -> Rotated:
    """Create a new key (unless the environment names the first), encrypt all with it, drop the
    others.

    It may be killed at any moment: old keys stay until the rows are committed. Rows that cannot be
    read with any key stay unchanged.
    """
    by_environment = bool(settings.CONFIG_KEYS)
    with transaction.atomic():
        # Later writers encrypt with the new key; earlier ones have committed.
        database_locks.lock(DatabaseLock.VAULT_KEYS)
        old = [key for key in vault.kept() if key not in settings.CONFIG_KEYS]
        if not by_environment:
            vault.add_first_key()
        count, unreadable = 0, []
        ours: list[Reencrypt] = [partial(_reencrypt, model) for model in (Setting, Version)]
        for reencrypt in (*ours, *reencrypt_tables):
            encrypted, failed = reencrypt()
            count += encrypted
            unreadable += failed
    vault.remove_keys(old)
    return Rotated(count, unreadable, by_environment)


def _reencrypt(model: type[Setting] | type[Version]) -> tuple[int, list[str]]:
    """Encrypt this table's rows with the first key; return their number, and unreadable ones."""
    count, unreadable, last = 0, [], 0
    while rows := _next_batch(model, last):
        for row in rows:
            try:
                sealed = vault.seal(row.key, row.text())
            except Unreadable:
                unreadable.append(f"{row} ({model.__name__.lower()} {row.pk})")
                continue
            model.objects.filter(pk=row.pk).update(sealed=sealed)
            count += 1
        last = rows[-1].pk
    return count, unreadable


def _next_batch(model: type[StoredValue], after: int) -> list[Setting] | list[Version]:
    rows = model.objects.select_related("node").filter(pk__gt=after)  # type: ignore[attr-defined]
    found: list[Setting] | list[Version] = list(rows.exclude(sealed="").order_by("pk")[:BATCH_SIZE])
    return found
