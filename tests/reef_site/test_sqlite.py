"""Writers to SQLite take turns, with transactions or with single statements."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import OperationalError, connection, connections, transaction
from django.test import Client

from reef_site.common import clock
from reef_site.sqlite import log
from registry import checkpoints
from registry.models import Gap
from tests.waiting import PATIENCE

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
            done.wait(60)
        connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(10)
    began = time.monotonic()
    with pytest.raises(OperationalError, match="locked"):
        write_once()
    with pytest.raises(OperationalError, match="locked"):
        update_once()
    assert 0.3 < time.monotonic() - began < 10 * PATIENCE
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


READ = """
import sqlite3, sys
reader = sqlite3.connect(sys.argv[1])
reader.execute("BEGIN")
reader.execute("SELECT count(*) FROM registry_gap").fetchone()
print("reading", flush=True)
sys.stdin.read()
"""


def write_a_lot() -> int:
    """Write some megabytes, with checkpoints as in the edge; return the log's bytes at its end."""
    row = {"began_at": clock.now(), "ended_at": clock.now(), "status": "running"}
    for _ in range(8):
        Gap.objects.bulk_create(Gap(vm_id="x" * 250, **row) for _ in range(2000))
        checkpoints.checkpoint()
    write_once()
    found = log.look()
    assert found
    return found.size_bytes


def test_log_is_bounded_and_a_reader_that_pins_it_is_named(
    client: Client, admin_user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "MAX_LOG_PAGES", 100)
    monkeypatch.setattr(log, "LONG_BYTES", 4 << 20)
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_size_limit = 500000")
    client.force_login(admin_user)
    assert write_a_lot() < 2 << 20

    words = [sys.executable, "-c", READ, str(settings.DATABASES["default"]["NAME"])]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == b"reading\n"
        assert write_a_lot() > 4 << 20
        page = client.get("/space/").content.decode()
        assert reader.stdin
        reader.stdin.close()
    assert f"process {reader.pid} (" in page
    assert "keeps a read transaction open" in page

    checkpoints.checkpoint()
    write_once()
    found = log.look()
    assert found
    assert found.size_bytes < 1 << 20
    assert "keeps a read transaction open" not in client.get("/space/").content.decode()


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
