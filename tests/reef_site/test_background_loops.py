"""Background loops and threads continue after unexpected errors and log them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from django import db
from django.contrib.auth.models import User
from django.db import InterfaceError
from django.test import Client

from lieutenants.models import Lieutenant
from reef_site.audit import edge_refusals, refusals
from reef_site.audit.models import Record
from reef_site.common import reaper
from reef_site.common.sender import Sender
from reef_site.edge import revocation, streams
from reef_site.launcher import supervisor
from reef_site.launcher.plan import Plan
from registry import batching, checkpoints, fast_path
from tests.waiting import PATIENCE, until

ERRORS = [InterfaceError("connection already closed"), ValueError("unforeseen")]


def fail_first_calls(answer: Any, error: Exception) -> tuple[Callable[..., Any], list[str]]:
    """Return a function that raises at its first two calls, and the list of its calls."""
    calls: list[str] = []

    def function(*_args: Any, **_named: Any) -> Any:
        calls.append(threading.current_thread().name)
        if len(calls) <= 2:
            # Two calls, because a reader repeats a call after a lost connection.
            raise error
        return answer

    return function, calls


async def wait_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10 * PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def run(play: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await play()

    asyncio.run(main())


@pytest.mark.parametrize("error", ERRORS)
def test_refusals_of_the_edge_are_recorded_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    recorded, calls = fail_first_calls(None, error)
    monkeypatch.setattr(edge_refusals, "record", recorded)
    monkeypatch.setattr(edge_refusals, "WRITE_SECONDS", 0.01)

    async def play() -> None:
        edge = edge_refusals.EdgeRefusals()
        for number in range(1, 5):
            edge.note("10.0.0.3", "POST", "/registry/vms/x", 401, "invalid token")
            await wait_until(lambda least=number: len(calls) >= least)  # type: ignore[misc]
        await edge.close()

    run(play)

    assert "Cannot record 1 refusals" in caplog.text
    assert str(error) in caplog.text


@pytest.mark.django_db
def test_unresolvable_path_loses_no_records(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(path: str) -> Any:
        raise ValueError(path)

    monkeypatch.setattr(edge_refusals, "resolve", broken)
    refused = edge_refusals.Refused("10.0.0.3", "POST", "/odd", 401, "invalid token")

    edge_refusals.record(Counter({refused: 2}))

    refusals.write()
    assert Record.objects.get().count == 2
    assert "Cannot resolve" in caplog.text


@pytest.mark.django_db
def test_request_succeeds_when_audit_log_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    User.objects.create_user("ada")

    def lost(*_: Any) -> bool:
        raise InterfaceError("connection already closed")

    monkeypatch.setattr(refusals, "add", lost)
    monkeypatch.setattr(refusals, "write", lost)
    monkeypatch.setattr(refusals, "write_if_due", lost)

    answer = Client().get("/lieutenant/lieutenants")

    assert answer.status_code == 401
    assert "Cannot record" in caplog.text


@pytest.mark.parametrize("error", ERRORS)
def test_stream_credentials_are_checked_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    look_up, _ = fail_first_calls(revocation.CredentialState(set(), {}), error)
    monkeypatch.setattr(revocation, "look_up", look_up)
    monkeypatch.setattr(revocation, "INTERVAL_SECONDS", 0.01)

    async def play() -> None:
        checks = revocation.Guard()
        async with asyncio.timeout(10 * PATIENCE):
            await checks.until_revoked(b"Bearer reef_x", b"")
        checks.close()

    run(play)

    assert str(error) in caplog.text


@pytest.mark.parametrize("error", ERRORS)
def test_transcript_continues_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    news, calls = fail_first_calls((1, [b"id: 1\nevent: x\n\n"], False, b"facts"), error)

    def next_events_or_end(channel: streams.Channel) -> Any:
        if len(calls) > 4:
            raise Lieutenant.DoesNotExist
        return news(channel)

    monkeypatch.setattr(streams, "_first_events", lambda _id, _after: (0, b"", False))
    monkeypatch.setattr(streams, "_events_and_facts", lambda _id, after: (after, b"facts"))
    monkeypatch.setattr(streams, "_new_events", next_events_or_end)
    monkeypatch.setattr(streams, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(streams.Streams, "_listen", lambda _self: None)

    async def play() -> None:
        all_streams = streams.Streams()
        async with asyncio.timeout(10 * PATIENCE):
            received = [chunk async for chunk in all_streams.transcript("x", None)]
        await all_streams.close()
        assert b"id: 1\nevent: x\n\n" in received

    run(play)

    assert str(error) in caplog.text


def test_heartbeat_writer_survives_failing_close(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    close, _ = fail_first_calls(None, OSError("broken"))
    monkeypatch.setattr(db.connections, "close_all", close)
    rounds: list[int] = []

    def write(items: Sequence[int]) -> list[int]:
        rounds.append(len(items))
        if len(rounds) <= 2:
            raise InterfaceError("connection already closed")
        return list(items)

    async def play() -> None:
        group = batching.Batcher("reef-test", write)
        async with asyncio.timeout(10 * PATIENCE):
            assert await group.ask(1) is None
            assert await group.ask(2) == 2
        await group.close()

    run(play)

    assert "a connection cannot be closed" in caplog.text


def test_waiting_requests_get_response_when_results_are_missing() -> None:
    async def play() -> None:
        group: batching.Batcher[int, int] = batching.Batcher("reef-test", lambda _items: [])
        async with asyncio.timeout(10 * PATIENCE):
            assert await group.ask(1) is None
        await group.close()

    run(play)


def test_wal_checkpoints_continue_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fold, calls = fail_first_calls(None, OSError("cannot lock"))
    monkeypatch.setattr(checkpoints, "checkpoint", fold)
    monkeypatch.setattr(checkpoints, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(db.connection, "vendor", "sqlite", raising=False)

    folding = checkpoints.Checkpoints()
    until(lambda: len(calls) > 3)
    folding.close()

    assert "cannot lock" in caplog.text


def test_heartbeats_continue_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fast_path, "UPTIME_SECONDS", 0.01)
    asked: list[object] = []

    class Writer:
        async def ask(self, item: object) -> None:
            asked.append(item)
            if len(asked) == 1:
                raise RuntimeError("unforeseen")

    async def play() -> None:
        routes = object.__new__(fast_path.FastPath)
        routes._writer = Writer()  # type: ignore[assignment]
        signing = asyncio.create_task(routes._record_uptime())
        await wait_until(lambda: len(asked) > 2)
        signing.cancel()

    run(play)

    assert "unforeseen" in caplog.text


def test_notifications_are_sent_after_an_error_in_the_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_seconds: float) -> None:
        raise ValueError("unforeseen")

    sender = Sender(on_recovery=broken)
    sender._dropping_since = 0.0
    sent: list[int] = []

    sender.submit(lambda: sent.append(1))
    sender.submit(lambda: sent.append(2))

    until(lambda: sent == [1, 2])
    sender.flush(5)
    assert "unforeseen" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_orphans_are_reaped_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def reap(_self: reaper.Reaper) -> None:
        calls.append(1)
        # The last call ends the thread, which must not reap the children of other tests.
        raise SystemExit if len(calls) == 3 else OSError("unforeseen")

    monkeypatch.setattr(reaper.Reaper, "reap", reap)
    monkeypatch.setattr(time, "sleep", lambda _seconds: threading.Event().wait(0.01))

    reaper.reap_in_background()

    until(lambda: len(calls) == 3)
    assert "unforeseen" in caplog.text


def test_supervisor_restarts_its_loops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    plan = Plan([], str(tmp_path), ("127.0.0.1", 1), [], "REEF_TEST")
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)
        if len(begun) < 3:
            raise OSError("unforeseen")

    async def play() -> None:
        with (tmp_path / "out").open("w") as out:
            reef = supervisor.Supervisor(plan, out)
            reef._run_in_background(work)
            await wait_until(lambda: len(begun) == 3 and not reef._background)
            reef.terminal.close()

    run(play)

    assert "unforeseen" in (tmp_path / "up.log").read_text()
    assert os.path.getsize(tmp_path / "out") > 0
