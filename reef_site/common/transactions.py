"""Calls that wait until the current transaction has committed."""

from __future__ import annotations

from collections.abc import Callable

from django.db import connection, transaction


def after_commit(call: Callable[[], object]) -> None:
    """Make this call when the current transaction commits; now if there is none.

    A rollback drops it. Unlike `transaction.on_commit` this needs no database connection outside
    of transactions, so threads without one may use it.
    """
    if connection.in_atomic_block:
        transaction.on_commit(call)
    else:
        call()
