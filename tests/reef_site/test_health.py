"""`GET /health`: open to everybody, with the state of each component."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import DatabaseError, connection
from django.test import Client
from django.utils import timezone

from lieutenants.models import LifeSign
from reef_site.common import broker
from reef_site.common.models import Tick
from reef_site.health import components
from reef_site.sqlite import log
from tests.conftest import Fleet, let_ticks_have_run
from tests.waiting import until
from vmtree import organs


@pytest.fixture
def redis_here(redis_server: str) -> None:
    broker.client.cache_clear()


@pytest.fixture
def no_redis(settings: Any) -> Iterator[None]:
    settings.REDIS_URL = "unix:///nowhere/redis.sock"
    broker.client.cache_clear()
    yield
    broker.client.cache_clear()


def all_is_well() -> None:
    for part in components.LATE_SECONDS:
        LifeSign.give(f"{part}@here")
    let_ticks_have_run()


def ask() -> Any:
    answer = Client().get("/health")
    return answer.status_code, answer.json()


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_health_is_ok() -> None:
    all_is_well()

    status, said = ask()

    assert (status, said["status"]) == (200, "ok"), said
    names = ["status", "uptime", "services", "parts", "isolation", "unknownAgents"]
    assert list(said) == names
    assert said["uptime"] > 0
    assert said["services"] == ["ui", *organs.MODULES]
    assert list(said["parts"]) == [
        *("database", "broker", "worker", "follower", "hosts"),
        *("ticks", "clock", "disk", "databaseLog"),
    ]
    assert all(part["ok"] and "why" not in part for part in said["parts"].values())
    signs = ("database", "broker", "worker", "follower", "ticks")
    assert all(said["parts"][name]["ageSeconds"] < 5 for name in signs)
    disk = said["parts"]["disk"]
    assert disk["freeBytes"] > 0
    assert 0 < disk["freePercent"] <= 100


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
@pytest.mark.parametrize("part", ["worker", "follower"])
def test_late_component_is_degraded(part: str) -> None:
    all_is_well()
    old = timezone.now() - timedelta(seconds=components.LATE_SECONDS[part] + 1)
    LifeSign.objects.filter(who=f"{part}@here").update(at=old)

    status, said = ask()

    assert (status, said["status"]) == (200, "degraded")
    assert said["parts"][part]["ok"] is False
    assert said["parts"][part]["ageSeconds"] >= components.LATE_SECONDS[part]
    assert "no sign for" in said["parts"][part]["why"]


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_the_newest_of_several_hosts_counts() -> None:
    LifeSign.give("worker@one")
    LifeSign.objects.update(at=timezone.now() - timedelta(days=1))
    LifeSign.give("worker@two")

    assert ask()[1]["parts"]["worker"]["ok"] is True


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_component_without_heartbeat_is_degraded() -> None:
    said = ask()[1]

    assert said["parts"]["worker"] == {"ok": False, "ageSeconds": None, "why": "never seen"}


@pytest.mark.django_db
@pytest.mark.usefixtures("no_redis")
def test_health_responds_without_broker() -> None:
    status, said = ask()

    assert (status, said["status"]) == (200, "degraded")
    broker = {"ok": False, "error": "ConnectionError", "why": "Redis does not answer"}
    assert said["parts"]["broker"] == broker


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_without_a_database_it_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise DatabaseError("a word about a password")

    monkeypatch.setattr(connection, "cursor", broken)

    answer = Client().get("/health")

    assert (answer.status_code, answer.json()["status"]) == (503, "degraded")
    assert answer.json()["parts"]["database"]["error"] == "DatabaseError"
    assert b"password" not in answer.content


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_other_methods_and_paths() -> None:
    client = Client(enforce_csrf_checks=True)

    assert client.head("/health").status_code == 200
    assert client.get("/health/").status_code == 200
    refused = client.post("/health")
    assert (refused.status_code, refused.json()) == (405, {"error": "method not allowed"})
    assert refused.headers["Allow"] == "GET, HEAD"
    below = client.get("/health/x")
    assert (below.status_code, below.json()) == (404, {"error": "not found"})


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_a_tick_that_is_late_is_named() -> None:
    all_is_well()
    old = timezone.now() - timedelta(seconds=3 * 15 + components.TICK_SLACK_SECONDS + 1)
    Tick.objects.filter(name="rules.tick").update(begun_at=old)

    said = ask()[1]

    assert said["status"] == "degraded"
    assert said["parts"]["ticks"]["late"] == ["rules.tick"]
    assert "rules.tick" in said["parts"]["ticks"]["why"]


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_future_heartbeats_are_reported_without_negative_age() -> None:
    all_is_well()
    tomorrow = timezone.now() + timedelta(days=1)
    LifeSign.objects.update(at=tomorrow)
    Tick.objects.update(begun_at=tomorrow, sent_at=tomorrow)

    said = ask()[1]

    assert said["status"] == "degraded"
    for name in ("worker", "follower", "ticks", "clock"):
        assert said["parts"][name]["ok"] is False
        assert "the clock was set back" in said["parts"][name]["why"]
        assert said["parts"][name].get("ageSeconds", 0) >= 0


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_future_heartbeat_does_not_hide_silence() -> None:
    all_is_well()
    LifeSign.objects.update(at=timezone.now() - timedelta(minutes=5))
    LifeSign.objects.create(who="worker@ahead", at=timezone.now() + timedelta(days=1))

    worker = ask()[1]["parts"]["worker"]

    assert worker["ok"] is False
    assert worker["ageSeconds"] >= 300


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
@pytest.mark.parametrize(
    ("free", "words"),
    [(100, ""), (4, "the disk is nearly full"), (0, "the disk is full")],
)
def test_free_disk_space_is_reported(
    monkeypatch: pytest.MonkeyPatch, client: Client, admin_user: User, free: int, words: str
) -> None:
    all_is_well()
    real = os.statvfs(settings.DATA_DIR)
    size = (10 << 30) // real.f_frsize
    values = list(real)
    values[2], values[4] = size, size * free // 100
    faked = os.statvfs_result(values)
    monkeypatch.setattr("reef_site.common.disk.os.statvfs", lambda _: faked)

    said = ask()[1]

    assert said["parts"]["disk"].get("why", "") == words
    assert said["status"] == ("degraded" if words else "ok")
    assert said["parts"]["disk"]["freePercent"] == free
    client.force_login(admin_user)
    page = client.get("/").content.decode()
    warned = "<strong>The disk is" in page
    assert warned == bool(words)
    assert f"<strong>{words.capitalize()}.</strong>" in page or not words


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_a_long_log_is_named_with_the_process_that_holds_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    all_is_well()
    monkeypatch.setattr(log, "LONG_BYTES", 1000)
    database = tmp_path / "db.sqlite3"
    with sqlite3.connect(database) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE t (x)")
    monkeypatch.setitem(settings.DATABASES["default"], "NAME", str(database))
    reads = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN');"
        "c.execute('SELECT count(*) FROM t').fetchone(); print('reading', flush=True);"
        "sys.stdin.read()"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", reads, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert reader.stdout
        assert reader.stdout.readline() == b"reading\n"
        writer.execute("INSERT INTO t VALUES (1)")
        writer.commit()

        told = ask()[1]["parts"]["databaseLog"]
    finally:
        reader.communicate()
        writer.close()

    assert told["ok"] is False
    assert told["bytes"] >= 1000
    assert told["heldBy"] == [reader.pid]
    assert f"process {reader.pid}" in told["why"]


@pytest.mark.usefixtures("fleet")
def test_running_follower_sends_heartbeats() -> None:
    until(lambda: ask()[1]["parts"]["follower"]["ok"])


def test_a_stopped_follower_is_missed(fleet: Fleet) -> None:
    until(lambda: LifeSign.latest("follower"))
    fleet.stop_follower()
    LifeSign.objects.update(at=timezone.now() - timedelta(seconds=60))
    try:
        assert ask()[1]["parts"]["follower"]["ok"] is False
    finally:
        fleet.restart_follower()
    until(lambda: ask()[1]["parts"]["follower"]["ok"])
