"""`GET /health`: for everybody, without a token; it tells of each part what is so."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.test import Client
from django.utils import timezone

from lieutenants.models import LifeSign
from reef_site import health
from tests.conftest import Fleet
from tests.waiting import until
from vmtree import bells, organs


@pytest.fixture
def redis_here(redis_server: str) -> None:
    bells.client.cache_clear()


@pytest.fixture
def no_redis(settings: Any) -> Iterator[None]:
    settings.REDIS_URL = "unix:///nowhere/redis.sock"
    bells.client.cache_clear()
    yield
    bells.client.cache_clear()


def ask() -> Any:
    answer = Client().get("/health")
    return answer.status_code, answer.json()


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_all_is_well() -> None:
    for part in health.LATE_SECONDS:
        LifeSign.give(f"{part}@here")

    status, said = ask()

    assert (status, said["status"]) == (200, "ok")
    assert list(said) == ["status", "uptime", "services", "parts"]
    assert said["uptime"] > 0
    assert said["services"] == ["ui", *organs.MODULES]
    assert list(said["parts"]) == ["database", "broker", "worker", "follower"]
    assert all(part["ok"] for part in said["parts"].values())
    assert all(part["ageSeconds"] < 5 for part in said["parts"].values())


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
@pytest.mark.parametrize("part", ["worker", "follower"])
def test_a_part_that_was_not_heard_of_lately(part: str) -> None:
    for name in health.LATE_SECONDS:
        LifeSign.give(f"{name}@here")
    old = timezone.now() - timedelta(seconds=health.LATE_SECONDS[part] + 1)
    LifeSign.objects.filter(who=f"{part}@here").update(at=old)

    status, said = ask()

    assert (status, said["status"]) == (200, "degraded")
    assert said["parts"][part]["ok"] is False
    assert said["parts"][part]["ageSeconds"] >= health.LATE_SECONDS[part]


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_the_newest_of_several_hosts_counts() -> None:
    LifeSign.give("worker@one")
    LifeSign.objects.update(at=timezone.now() - timedelta(days=1))
    LifeSign.give("worker@two")

    assert ask()[1]["parts"]["worker"]["ok"] is True


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_parts_that_were_never_heard_of() -> None:
    said = ask()[1]

    assert said["parts"]["worker"] == {"ok": False, "ageSeconds": None}


@pytest.mark.django_db
@pytest.mark.usefixtures("no_redis")
def test_without_a_broker_it_answers_all_the_same() -> None:
    status, said = ask()

    assert (status, said["status"]) == (200, "degraded")
    assert said["parts"]["broker"] == {"ok": False, "error": "ConnectionError"}


@pytest.mark.django_db
@pytest.mark.usefixtures("redis_here")
def test_without_a_database_it_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise DatabaseError("a word about a password")

    monkeypatch.setattr(connection, "cursor", broken)

    answer = Client().get("/health")

    assert (answer.status_code, answer.json()["status"]) == (503, "degraded")
    assert answer.json()["parts"]["database"] == {"ok": False, "error": "DatabaseError"}
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


@pytest.mark.usefixtures("fleet")
def test_a_follower_at_work_gives_signs() -> None:
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
