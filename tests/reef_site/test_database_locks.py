"""Named advisory locks: distinct numbers, and who waits for whom on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from django.db import connection, connections, transaction

from reef_site.common.database_locks import DatabaseLock, lock
from tests.fleets import plant
from tests.waiting import until
from vmtree.operations import services as operations
from vmtree.operations.models import Operation


class Holder:
    """A transaction of another connection that holds a lock until `release`."""

    def __init__(self, name: DatabaseLock, *, shared: bool = False) -> None:
        self._release, self.held = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(name, shared))
        self._thread.start()

    def _hold(self, name: DatabaseLock, shared: bool) -> None:
        try:
            with transaction.atomic():
                lock(name, shared=shared)
                self.held.set()
                self._release.wait(60)
        finally:
            connections.close_all()

    def release(self) -> None:
        self._release.set()
        self._thread.join(60)


def waiting_for(name: DatabaseLock) -> int:
    """Return how many sessions wait for this lock, as PostgreSQL reports."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND objid = %s",
            [name.value],
        )
        count: int = cursor.fetchone()[0]
    return count


@pytest.fixture
def hold() -> Iterator[Callable[..., Holder]]:
    """Start holders that end with the test."""
    holders: list[Holder] = []

    def start(name: DatabaseLock, *, shared: bool = False) -> Holder:
        holders.append(Holder(name, shared=shared))
        return holders[-1]

    yield start
    for holder in holders:
        holder.release()


def test_each_lock_has_its_own_number() -> None:
    numbers = [member.value for member in DatabaseLock.__members__.values()]
    assert len(numbers) == len(set(numbers)) == len(DatabaseLock)


@pytest.mark.postgres
@pytest.mark.parametrize("name", DatabaseLock)
def test_exclusive_lock_waits_for_the_other_transaction(
    postgres: object, hold: Callable[..., Holder], name: DatabaseLock
) -> None:
    first = hold(name)
    assert first.held.wait(10)
    second = hold(name)
    until(lambda: waiting_for(name) == 1)
    assert not second.held.is_set()
    first.release()
    assert second.held.wait(10)


@pytest.mark.postgres
def test_shared_locks_exclude_an_exclusive_one(
    postgres: object, hold: Callable[..., Holder]
) -> None:
    name = DatabaseLock.VAULT_KEYS
    sharers = [hold(name, shared=True), hold(name, shared=True)]
    assert all(sharer.held.wait(10) for sharer in sharers)
    alone = hold(name)
    until(lambda: waiting_for(name) == 1)
    for sharer in sharers:
        assert not alone.held.is_set()
        sharer.release()
    assert alone.held.wait(10)


@pytest.mark.postgres
def test_job_starts_while_config_is_written(postgres: object, hold: Callable[..., Holder]) -> None:
    plant("top")
    writer = hold(DatabaseLock.VAULT_KEYS, shared=True)
    assert writer.held.wait(10)
    with connection.cursor() as cursor:
        # Instead of waiting for the writer, starting the job would fail.
        cursor.execute("SET lock_timeout = '5s'")
    job, continued = operations.start(Operation.PAUSE, "top", by="tests")
    assert job.is_open
    assert not continued
    # The start does not wait for the exclusive holder either, which is the key rotation.
    writer.release()
    rotation = hold(DatabaseLock.VAULT_KEYS)
    assert rotation.held.wait(10)
    again, continued = operations.start(Operation.PAUSE, "top", by="tests")
    assert continued
    assert again.pk == job.pk


@pytest.mark.postgres
def test_lock_outside_of_a_transaction_is_an_error(postgres: object) -> None:
    with pytest.raises(RuntimeError, match="JOB_STARTS"):
        lock(DatabaseLock.JOB_STARTS)


def test_sqlite_needs_no_lock(db: None) -> None:
    with transaction.atomic():
        lock(DatabaseLock.JOB_STARTS)
        lock(DatabaseLock.JOB_STARTS, shared=True)
