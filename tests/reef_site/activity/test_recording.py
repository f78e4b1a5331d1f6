"""The event log: one transaction with the change, and numbers that are safe to continue from."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction

from reef_site.common import clock
from reef_site.common.eventlog import reading, recording, retention
from reef_site.common.eventlog.models import AppendOnly, Event
from reef_site.common.eventlog.recording import NewEvent
from tests.fleets import database
from tests.waiting import until

__all__ = ["database"]


def record(subject: str) -> None:
    recording.record("vm.registered", subject, actor="tests")


def subjects(after: int = 0) -> list[str]:
    found = reading.between(after, reading.last_certain_id())
    return list(found.values_list("subject", flat=True))


class Transaction:
    """A transaction in a thread of its own that records an event and waits before its end."""

    def __init__(self, subject: str, *, ends_well: bool = True) -> None:
        self._ends_well = ends_well
        self._recorded, self._may_end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=[subject])
        self._thread.start()
        assert self._recorded.wait(10)

    def _run(self, subject: str) -> None:
        try:
            with transaction.atomic():
                record(subject)
                self._recorded.set()
                assert self._may_end.wait(30)
                if not self._ends_well:
                    transaction.set_rollback(True)
        finally:
            connections.close_all()

    def end(self) -> None:
        self._may_end.set()
        self._thread.join(30)


@pytest.mark.django_db
def test_rollback_drops_the_event() -> None:
    with transaction.atomic():
        record("dropped")
        transaction.set_rollback(True)
    record("kept")

    assert subjects() == ["kept"]


@pytest.mark.django_db
def test_events_are_never_changed() -> None:
    record("vm")
    row = Event.objects.get()

    with pytest.raises(AppendOnly):
        row.save()
    with pytest.raises(AppendOnly):
        row.delete()


@pytest.mark.django_db
def test_long_and_unstorable_texts_are_recorded() -> None:
    recording.record("vm.registered", "a\0b", actor="x" * 500, detail={"reason": "y" * 5000})

    row = Event.objects.get()
    assert (row.subject, len(row.actor), len(row.detail["reason"])) == ("a\ufffdb", 200, 1000)


@pytest.mark.django_db(transaction=True)
def test_others_are_told_after_the_commit() -> None:
    told: list[int] = []
    with recording.after_recording.changed({"tests": lambda: told.append(Event.objects.count())}):
        with transaction.atomic():
            recording.record_many([NewEvent("vm.late", "a"), NewEvent("vm.late", "b")], actor="x")
            assert told == []
        assert told == [2]


@pytest.mark.django_db(transaction=True)
def test_error_of_a_listener_does_not_fail_the_change() -> None:
    def fail() -> None:
        raise RuntimeError("tests")

    with recording.after_recording.changed({"tests": fail}):
        record("vm")

    assert subjects() == ["vm"]


@pytest.mark.django_db
def test_retention_deletes_old_events_only(settings: object) -> None:
    record("old")
    record("new")
    Event.objects.filter(subject="old").update(at=clock.now() - timedelta(days=91))

    assert retention.prune() == 1
    assert subjects() == ["new"]


@pytest.mark.django_db
def test_retention_keeps_a_limited_number_of_events(settings: Any) -> None:
    for number in range(12):
        record(f"s{number}")
    assert retention.prune() == 0
    settings.EVENT_ROWS = 10
    assert retention.prune() == 2
    assert sorted(subjects()) == sorted(f"s{number}" for number in range(2, 12))
    assert retention.prune() == 0


def test_numbers_grow_even_after_all_events_were_deleted(database: str) -> None:
    record("one")
    before = reading.last_certain_id()
    Event.objects.all().delete()
    record("two")

    assert subjects(after=before) == ["two"]


# -- transactions that commit in another order ---------------------------------------------------


@pytest.mark.postgres
@pytest.mark.parametrize("ends_well", [True, False])
def test_later_event_waits_for_an_open_transaction(postgres: object, ends_well: bool) -> None:
    record("before")
    slow = Transaction("slow", ends_well=ends_well)
    quick = Transaction("quick")
    quick.end()
    assert Event.objects.filter(subject="quick").exists()
    position = reading.last_certain_id()

    assert subjects() == ["before"]
    assert reading.last_id() > position
    slow.end()
    assert subjects(after=position) == (["slow", "quick"] if ends_well else ["quick"])
    assert reading.last_certain_id() == reading.last_id()


@pytest.mark.postgres
def test_rolled_back_savepoint_does_not_unlock_later_events(postgres: object) -> None:
    """A lock of a savepoint ends with it, so the next event takes another one."""
    with transaction.atomic():
        with transaction.atomic():
            record("dropped")
            transaction.set_rollback(True)
        record("slow")
        quick = Transaction("quick")
        quick.end()
        assert subjects_of_another_connection() == []
    assert subjects() == ["slow", "quick"]


def subjects_of_another_connection() -> list[str]:
    return in_a_thread(subjects)


def in_a_thread(call: Callable[[], list[str]]) -> list[str]:
    found: list[list[str]] = []

    def run() -> None:
        try:
            found.append(call())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    return found[0]


@pytest.mark.postgres
def test_transaction_with_many_events_holds_one_lock(postgres: object) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        for number in range(50):
            record(f"vm-{number}")
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert cursor.fetchone()[0] == 1


@pytest.mark.postgres
def test_other_locks_hold_back_nothing(postgres: object) -> None:
    record("before")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(7), pg_advisory_xact_lock(1, 2)")
        assert subjects() == ["before"]


@pytest.mark.postgres
def test_reader_beside_many_writers_misses_nothing(postgres: object) -> None:
    """Writers commit in random order, some of them not at all; the reader never goes back."""
    rng, written, lock = random.Random(7), set[str](), threading.Lock()
    plans = [[rng.random() < 0.8 for _ in range(40)] for _ in range(6)]

    def write(writer: int) -> None:
        try:
            for number, ends_well in enumerate(plans[writer]):
                with transaction.atomic():
                    for part in range(3):
                        record(f"{writer}-{number}-{part}")
                    transaction.set_rollback(not ends_well)
                if ends_well:
                    with lock:
                        written.update(f"{writer}-{number}-{part}" for part in range(3))
        finally:
            connections.close_all()

    writers = [threading.Thread(target=write, args=[number]) for number in range(len(plans))]
    for each in writers:
        each.start()
    found: list[str] = []
    position = 0

    def read() -> bool:
        nonlocal position
        is_over = not any(each.is_alive() for each in writers)
        up_to = reading.last_certain_id()
        found.extend(reading.between(position, up_to).values_list("subject", flat=True))
        position = up_to
        return is_over

    until(read, 60)
    assert len(found) == len(set(found))
    assert set(found) == written
