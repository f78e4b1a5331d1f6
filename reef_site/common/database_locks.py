"""Named PostgreSQL advisory locks, which end with the transaction that takes them.

They order writers where no single row stands for what is guarded::

    with transaction.atomic():
        database_locks.lock(DatabaseLock.TREE_STRUCTURE)               # exclusive
        database_locks.lock(DatabaseLock.VAULT_KEYS, shared=True)      # beside other sharers

All numbers stand here, so that no two locks are the same by accident. On SQLite nothing is taken:
it lets one writer in at a time anyway.
"""

from __future__ import annotations

from enum import IntEnum, unique

from django.db import connection


@unique
class DatabaseLock(IntEnum):
    """The number of each lock. Hosts of one database may run different versions: keep them."""

    # Creators of nodes share it, whoever moves or removes nodes holds it alone.
    TREE_STRUCTURE = 7_202_611
    # Writers of sealed values share it, the rotation of the keys holds it alone.
    VAULT_KEYS = 7_202_612
    # Counting and starting provisionings.
    PROVISIONING_STARTS = 7_202_613
    # Comparing a new subtree job with the open ones, and starting it.
    JOB_STARTS = 7_202_614
    # Setting a parent in the registry without closing a circle.
    REGISTRY_PARENTS = 0x72656566


def lock(name: DatabaseLock, *, shared: bool = False) -> None:
    """Wait for this lock and hold it until the current transaction ends.

    Exclusive unless `shared`. Outside of a transaction it would end at once, so that is an error.
    """
    if connection.vendor != "postgresql":
        return
    if not connection.in_atomic_block:
        raise RuntimeError(f"{name.name} can only be locked inside a transaction")
    function = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(%s)", [name.value])
