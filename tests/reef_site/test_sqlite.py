"""Writers to SQLite take turns, with transactions or with single statements."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction

from reef_site.common import clock
from registry import checkpoints
from registry.models import Gap

pytestmark = pytest.mark.django_db(transaction=True)


def write_gap(vm_id: str) -> None:
    Gap.objects.create(vm_id=vm_id, began_at=clock.now(), ended_at=clock.now(), status="running")


def write_slowly() -> None:
    """Hold the write lock for a while, repeatedly."""
    with transaction.atomic():
        write_gap("greedy")
        time.sleep(0.005)


def write_once() -> None:
    with transaction.atomic():
        write_gap("modest")


def update_once() -> None:
    Gap.objects.filter(vm_id="nobody").update(status="paused")


def count_turns(seconds: float, *writers: Callable[[], None]) -> list[int]:
    """Return how often each writer finished in this time."""
    turns: Counter[int] = Counter()
    end = time.monotonic() + seconds

    def write_until_end(number: int, act: Callable[[], None]) -> None:
        while time.monotonic() < end:
            act()
            turns[number] += 1
        connections.close_all()

    threads = [threading.Thread(target=write_until_end, args=each) for each in enumerate(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [turns[number] for number in range(len(writers))]


@pytest.mark.parametrize("other", [write_once, update_once])
def test_waiting_writer_is_not_overtaken(other: Callable[[], None]) -> None:
    turns = count_turns(1.5, write_slowly, write_slowly, write_slowly, other)

    # Without a queue, the last writer has one or two turns.
    assert min(turns) >= 12, turns


def test_writer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "timeout", 0.2)
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            holds.set()
            done.wait(20)
        connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(10)
    began = time.monotonic()
    with pytest.raises(OperationalError, match="locked"):
        write_once()
    with pytest.raises(OperationalError, match="locked"):
        update_once()
    assert 0.3 < time.monotonic() - began < 10
    done.set()
    holder.join(10)
    write_once()
    assert Gap.objects.get().vm_id == "modest"


def test_wal_is_reset_while_others_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_LOG_PAGES", 5)
    log_pages: list[int] = []

    def checkpoint_log() -> None:
        checkpoints.checkpoint()
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
            log_pages.append(cursor.fetchone()[1])
        time.sleep(0.02)

    count_turns(1.0, write_slowly, write_slowly, write_slowly, checkpoint_log)

    # The log is this short only shortly after a reset.
    assert min(log_pages[len(log_pages) // 2 :]) < 60, log_pages


def test_busy_timeout_of_sqlite_is_restored() -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone()[0] == 20_000
        write_once()
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone()[0] == 20_000


def test_writes_work_without_queue_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrapper: Any = connections["default"]
    write_once()
    monkeypatch.setattr(wrapper, "_queue_file", None)
    monkeypatch.setitem(wrapper.settings_dict, "NAME", str(tmp_path / "missing" / "file"))
    write_once()
    assert Gap.objects.count() == 2
