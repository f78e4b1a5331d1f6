"""Who may write while keys of the vault change. SQLite lets one writer in at a time anyway."""

from __future__ import annotations

from django.db import connection

# PostgreSQL's lock on the vault's keys; any number that nobody else uses.
_VAULT = 7_202_612


def writing() -> None:
    """Until commit nobody takes keys away; for transactions that seal."""
    _lock("pg_advisory_xact_lock_shared")


def rotating() -> None:
    """Until commit nobody else seals."""
    _lock("pg_advisory_xact_lock")


def _lock(function: str) -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {function}(%s)", [_VAULT])
