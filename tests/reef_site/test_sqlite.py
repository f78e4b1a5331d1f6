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


def gap(vm_id: str) -> None:
    Gap.objects.create(vm_id=vm_id, began_at=clock.now(), ended_at=clock.now(), status="running")


def greedy() -> None:
    """Hold the write lock for a while, repeatedly."""
    with transaction.atomic():
        gap("greedy")
        time.sleep(0.005)


def modest() -> None:
    with transaction.atomic():
        gap("modest")


def single() -> None:
    Gap.objects.filter(vm_id="nobody").update(status="paused")


def in_threads(seconds: float, *acts: Callable[[], None]) -> list[int]:
    """Return how often each writer finished in this time."""
    turns: Counter[int] = Counter()
    end = time.monotonic() + seconds

    def go_on(number: int, act: Callable[[], None]) -> None:
        while time.monotonic() < end:
            act()
            turns[number] += 1
        connections.close_all()

    threads = [threading.Thread(target=go_on, args=each) for each in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [turns[number] for number in range(len(acts))]


@pytest.mark.parametrize("other", [modest, single])
def test_waiting_writer_is_not_overtaken(other: Callable[[], None]) -> None:
    turns = in_threads(1.5, greedy, greedy, greedy, other)

    # Without turns the luckless have one or two.
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
        modest()
    with pytest.raises(OperationalError, match="locked"):
        single()
    assert 0.3 < time.monotonic() - began < 10
    done.set()
    holder.join(10)
    modest()
    assert Gap.objects.get().vm_id == "modest"


def test_wal_is_reset_while_others_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_LOG_PAGES", 5)
    folded: list[int] = []

    def fold() -> None:
        checkpoints.checkpoint()
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
            folded.append(cursor.fetchone()[1])
        time.sleep(0.02)

    in_threads(1.0, greedy, greedy, greedy, fold)

    # So few pages there are only just after a new beginning.
    assert min(folded[len(folded) // 2 :]) < 60, folded


def test_busy_timeout_of_sqlite_is_restored() -> None:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone()[0] == 20_000
        modest()
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone()[0] == 20_000


def test_writes_work_without_queue_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrapper: Any = connections["default"]
    modest()
    monkeypatch.setattr(wrapper, "_queue_file", None)
    monkeypatch.setitem(wrapper.settings_dict, "NAME", str(tmp_path / "missing" / "file"))
    modest()
    assert Gap.objects.count() == 2
