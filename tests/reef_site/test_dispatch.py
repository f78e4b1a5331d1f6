"""Tasks and events are sent after the commit, under names that workers and streams know."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from redis import RedisError

from lieutenants import tasks
from reef_site.celery import app
from reef_site.common import broker, events
from reef_site.common.dispatch import dispatch
from tests.dispatching import intercept_tasks

Sent = list[tuple[str, list[Any], float]]
APPS = ("bootloader", "lieutenants", "reef_site", "registry", "versconfig", "vmtree")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Return what was handed to the broker: task, arguments, countdown."""
    found: Sent = []
    intercept_tasks(monkeypatch, "", lambda *call: found.append(call))
    return found


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return the channels and messages that were published to Redis."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(broker, "publish", lambda *call: found.append(call))
    return found


@pytest.mark.django_db(transaction=True)
def test_task_is_sent_after_the_commit(sent: Sent) -> None:
    with transaction.atomic():
        dispatch("operations.advance", "J1", countdown=2.0)
        assert sent == []
    assert sent == [("operations.advance", ["J1"], 2.0)]


@pytest.mark.django_db(transaction=True)
def test_task_of_a_rolled_back_transaction_is_not_sent(sent: Sent) -> None:
    with transaction.atomic():
        dispatch("operations.advance", "J1")
        transaction.set_rollback(True)
    assert sent == []


def test_task_outside_of_a_transaction_is_sent_at_once(sent: Sent) -> None:
    dispatch(tasks.settle, "L1", queue="host.x")
    assert sent == [("lieutenants.settle", ["L1"], 0.0)]


def _dispatched_names() -> Iterator[str]:
    """Yield the names of tasks that our code dispatches by name."""
    for path in (path for each in APPS for path in (settings.BASE_DIR / each).rglob("*.py")):
        text = Path(path).read_text()
        for node in ast.walk(ast.parse(text)) if "dispatch(" in text else ():
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id == "dispatch" and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def test_workers_know_each_dispatched_task() -> None:
    app.loader.import_default_modules()
    names = set(_dispatched_names())
    assert {"operations.advance", "bootloader.begin", "rules.act"} <= names
    assert names <= set(app.tasks)


@pytest.mark.django_db(transaction=True)
def test_events_are_published_after_the_commit(published: list[tuple[str, str]]) -> None:
    with transaction.atomic():
        events.publish_lieutenant("L1")
        events.wake_follower("L1")
        assert published == []
    assert published == [
        ("reef:news", '{"topic": "lieutenants", "id": "L1"}'),
        ("reef:bell", "L1"),
    ]


def test_payloads_have_the_form_that_streams_read(published: list[tuple[str, str]]) -> None:
    many = [f"v{number}" for number in range(events.MAX_IDS + 1)]
    events.publish_transcripts({"L1": 41})
    events.publish_nodes(iter(["a", "b"]))
    events.publish_nodes([])
    events.publish_nodes(many[:-1])
    events.publish_nodes(many)
    events.publish_provisionings(["P1"])
    assert {channel for channel, _ in published} == {"reef:news"}
    assert [json.loads(message) for _, message in published] == [
        {"topic": "transcripts", "revs": {"L1": 41}},
        {"topic": "nodes", "ids": ["a", "b"]},
        {"topic": "nodes", "ids": many[:-1]},
        {"topic": "nodes", "all": True},
        {"topic": "provisionings", "ids": ["P1"]},
    ]


class FlakyRedis:
    """Accepts messages except the first one."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def publish(self, _channel: str, message: str) -> None:
        self.calls.append(json.loads(message))
        if len(self.calls) == 1:
            raise RedisError("not now")


def test_subscribers_are_told_that_events_were_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FlakyRedis()
    monkeypatch.setattr(broker, "client", lambda: server)
    broker.flush(10)
    for lieutenant_id in ("L1", "L2"):
        events.publish_lieutenant(lieutenant_id)
    broker.flush(10)
    assert [call["topic"] for call in server.calls] == ["lieutenants", "lieutenants", "missed"]
    assert server.calls[-1]["seconds"] >= 1
