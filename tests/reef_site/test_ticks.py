"""Periodic tasks: each is sent once a period and runs once, whatever the clocks do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.utils import timezone

from reef_site.celery import app
from reef_site.common import broker, ticks
from reef_site.common.models import Tick
from reef_site.common.scheduler import TickScheduler
from tests.waiting import until

SWEEP = "registry.sweep"
DAY = timedelta(days=1)


class Queue:
    """The queue of tasks in Redis."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)

    def clear(self) -> None:
        self._client.delete("celery")

    def tasks(self, name: str = SWEEP) -> list[int]:
        """Return the generations of the queued ticks with this name, oldest first."""
        raw: Any = self._client.lrange("celery", 0, -1)
        messages = [json.loads(each) for each in reversed(raw)]
        mine = [each for each in messages if each["headers"]["task"] == name]
        return [json.loads(each["headers"]["kwargsrepr"].split(": ")[1][:-1]) for each in mine]


@pytest.fixture
def waiting(redis_server: str) -> Iterator[Queue]:
    broker.client.cache_clear()
    found = Queue(redis_server)
    found.clear()
    yield found
    found.clear()


def scheduler(**options: Any) -> TickScheduler:
    return TickScheduler(app=app, **options)


@pytest.mark.django_db(transaction=True)
def test_a_new_scheduler_sends_each_tick_once(waiting: Queue) -> None:
    beat = scheduler()
    beat.tick()
    beat.tick()

    assert waiting.tasks() == [1]
    assert {tick.name for tick in Tick.objects.all()} == {
        entry["task"] for entry in app.conf.beat_schedule.values()
    }


@pytest.mark.django_db(transaction=True)
def test_a_second_scheduler_sends_nothing_again(waiting: Queue) -> None:
    scheduler().tick()
    scheduler().tick()

    assert waiting.tasks() == [1]


@pytest.mark.django_db(transaction=True)
def test_restarted_scheduler_continues_from_the_rows(waiting: Queue) -> None:
    scheduler().tick()
    assert ticks.begin(SWEEP, 1)
    Tick.objects.filter(pk=SWEEP).update(sent_at=timezone.now() - timedelta(seconds=60))

    scheduler().tick()

    assert waiting.tasks() == [1, 2]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("jump", [-DAY, DAY, -timedelta(minutes=3)])
def test_clock_change_does_not_delay_ticks(waiting: Queue, jump: timedelta) -> None:
    scheduler().tick()
    assert ticks.begin(SWEEP, 1)
    # The row as it is after the clock was changed by `jump`.
    Tick.objects.update(sent_at=timezone.now() - jump)

    scheduler().tick()

    assert waiting.tasks() == [1, 2]


@pytest.mark.django_db(transaction=True)
def test_old_schedule_file_is_ignored(waiting: Queue, tmp_path: Path) -> None:
    torn = tmp_path / "celerybeat-schedule"
    torn.write_bytes(b"\0" * 4096)

    scheduler(schedule_filename=str(torn)).tick()

    assert waiting.tasks() == [1]
    assert torn.read_bytes() == b"\0" * 4096


@pytest.mark.django_db
def test_tick_runs_once_and_an_older_one_never() -> None:
    assert ticks.claim(SWEEP, 10.0).generation == 1
    Tick.objects.update(sent_at=timezone.now() - timedelta(minutes=1))
    assert ticks.claim(SWEEP, 10.0).generation == 2

    assert not ticks.begin(SWEEP, 1)
    assert ticks.begin(SWEEP, 2)
    assert not ticks.begin(SWEEP, 2)


@pytest.mark.django_db
def test_ticks_do_not_pile_up_without_worker() -> None:
    assert ticks.claim(SWEEP, 10.0).generation == 1
    Tick.objects.update(sent_at=timezone.now() - timedelta(seconds=ticks.RESEND_SECONDS - 5))
    assert ticks.claim(SWEEP, 10.0).generation is None

    Tick.objects.update(sent_at=timezone.now() - timedelta(seconds=ticks.RESEND_SECONDS + 1))
    assert ticks.claim(SWEEP, 10.0).generation == 2


@pytest.mark.django_db(transaction=True)
def test_tick_is_sent_as_soon_as_redis_is_back(
    waiting: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = scheduler()
    with monkeypatch.context() as broken:

        def refuse(*_: object, **__: object) -> None:
            raise redis.ConnectionError

        broken.setattr(broker, "_send", refuse)
        assert beat.tick() <= 1.0
        assert waiting.tasks() == []

    until(lambda: beat.tick() and waiting.tasks(), 5)
    assert len(waiting.tasks()) == 1
