"""The follower with real keepers: replaced, killed, failing; nothing is lost or duplicated."""

from __future__ import annotations

import errno
import os
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings as django_settings
from django.db import OperationalError, connection, connections
from django.test.utils import CaptureQueriesContext

from lieutenants.exceptions import NotTheFollower
from lieutenants.models import Answer, Chunk, Entry, Message, Process
from lieutenants.sessions import write_batch
from lieutenants.sessions.session import Session
from lieutenants.states import MessageState, Outcome
from lieutenants.supervision import follower
from lieutenants.supervision.follower import Follower
from reef_site.common import broker, locks
from tests.conftest import STANDIN, Fleet
from tests.waiting import until

LIEUTENANTS = "/lieutenant/lieutenants"


def words(count: int) -> str:
    """Return the stand-in's answer to `TOKENS <count> <rate>`."""
    return " ".join(f"w{number}" for number in range(count))


def let_pass(seconds: float) -> None:
    """Wait this long while others work; callers choose random times."""
    threading.Event().wait(seconds)


def check_nothing_is_open() -> None:
    assert not Chunk.objects.exists()
    assert not Entry.objects.filter(final=False).exists()
    assert not Answer.objects.filter(outcome=Outcome.OPEN).exists()
    assert not Message.objects.pending().exists()


def working(fleet: Fleet, names: list[str]) -> bool:
    return any(fleet.row(name).status == "working" for name in names)


@pytest.mark.rotated
def test_repeatedly_replaced_follower_records_everything_once(fleet: Fleet) -> None:
    chance = random.Random(1)
    names = [f"l{number}" for number in range(5)]
    for name in names:
        fleet.create(name, ready=False)
    for name in names:
        fleet.wait(name, "idle")
        fleet.send(name, "TOKENS 500 150")
    replaced = 0
    while working(fleet, names):
        let_pass(chance.random() * 0.4)
        fleet.restart_follower()
        replaced += 1
    assert replaced >= 5
    for name in names:
        assert fleet.texts(name) == [words(500)]
        assert fleet.get(name)["outputHistory"] == [words(500)]
        assert fleet.texts(name, "user") == ["TOKENS 500 150"]
    check_nothing_is_open()


SPAWNER = """
import os, signal, sys
import django
django.setup()
from lieutenants.supervision.follower import Follower
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
child = 0
for line in sys.stdin:
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    child = 0
    if line == "start\\n":
        child = os.fork()
        if not child:
            Follower().run()
            os._exit(0)
    print(child, flush=True)
"""


class Worker:
    """A follower in a process of its own, which can be killed without any cleanup."""

    def __init__(self) -> None:
        database = connection.settings_dict
        if connection.vendor == "sqlite":
            url = f"sqlite:///{database['NAME']}"
        else:
            address = urlsplit(os.environ["DATABASE_URL"])
            url = address._replace(path=f"/{database['NAME']}").geturl()
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "reef_site.settings",
            "DATABASE_URL": url,
            "PI_PATH": str(STANDIN),
            "REEF_STARTS_AT_ONCE": "8",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", SPAWNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            cwd=django_settings.BASE_DIR,
            text=True,
        )
        self.start()

    def _tell(self, word: str) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self) -> None:
        """Kill the running follower, if any, with SIGKILL, and start another."""
        assert self._tell("start")

    def close(self) -> None:
        self._tell("stop")
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def worker(fleet: Fleet) -> Iterator[Worker]:
    """The only follower."""
    fleet.stop_follower()
    made = Worker()
    yield made
    made.close()


@pytest.mark.rotated
def test_twenty_worker_kills_lose_and_duplicate_nothing(fleet: Fleet, worker: Worker) -> None:
    chance = random.Random(2)
    names = [f"l{number}" for number in range(10)]
    for name in names:
        fleet.create(name, ready=False)
    for name in names:
        fleet.wait(name, "idle")
        fleet.send(name, "TOKENS 600 100")
    sent = dict.fromkeys(names, 1)
    for _ in range(20):
        let_pass(0.05 + chance.random() * 0.3)
        worker.start()
        name = chance.choice(names)
        fleet.send(name, f"more {sent[name]}")
        sent[name] += 1
    for name in names:
        fleet.wait(name, "idle", 90)
        answers = [f"echo: more {number}" for number in range(1, sent[name])]
        assert fleet.texts(name) == [words(600), *answers]
    check_nothing_is_open()
    assert not Message.objects.exclude(state=MessageState.ACCEPTED).exists()


def test_pass_that_fails_before_its_commit_is_repeated(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, really_save = [0], write_batch.save_progress

    def save_or_fail(*rows: Any) -> None:
        passes[0] += bool(rows[0])
        if passes[0] % 4 == 3:
            raise RuntimeError("the test pulls the plug")
        really_save(*rows)

    for name in ("ada", "bea"):
        fleet.create(name)
    monkeypatch.setattr("lieutenants.supervision.follower.save_progress", save_or_fail)
    monkeypatch.setattr(follower, "RETRY_SECONDS", 0.05)
    for name in ("ada", "bea"):
        fleet.send(name, "TOKENS 400 200")
    for name in ("ada", "bea"):
        fleet.wait(name, "idle")
        assert fleet.texts(name) == [words(400)]
    assert passes[0] >= 10
    check_nothing_is_open()


def test_broken_session_does_not_block_others(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_apply = Session.apply

    def apply(session: Session, *what: Any) -> None:
        if session.lieutenant.name == "bad" and broken:
            raise ValueError("the test breaks this one")
        really_apply(session, *what)

    broken = True
    monkeypatch.setattr(follower, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(follower, "SKIP_SECONDS", 1.0)
    monkeypatch.setattr(Session, "apply", apply)
    fleet.create("bad", ready=False)
    fleet.create("good")
    assert fleet.ask("good", "hello") == "echo: hello"
    assert fleet.row("bad").status == "starting"
    broken = False
    fleet.wait("bad", "idle")


def test_only_one_of_two_followers_follows(fleet: Fleet) -> None:
    second = Follower()
    thread = threading.Thread(target=second.run)
    thread.start()
    try:
        fleet.create("ada")
        assert fleet.ask("ada", "hello") == "echo: hello"
        assert not second.sessions
        fleet.stop_follower()
        assert fleet.ask("ada", "again") == "echo: again"
        assert second.sessions
    finally:
        second.stop()
        thread.join(20)
    assert not thread.is_alive()


def without_lock(second: Follower) -> None:
    """Let this follower run beside another one."""
    second._lock.path = second._lock.path.with_name(f"{second._lock.path.name}.of-its-own")


def test_two_followers_at_once_write_each_record_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "RETRY_SECONDS", 0.05)
    # Nothing keeps them apart but the rows.
    monkeypatch.setattr(
        "lieutenants.hosts.lock.hold_identity_lock", lambda _stopping: nullcontext(True)
    )
    monkeypatch.setattr("lieutenants.hosts.services.renew_lease", lambda _follower: None)
    second = Follower()
    without_lock(second)
    thread = threading.Thread(target=second.run)
    thread.start()
    names = ["ada", "bea", "cleo"]
    try:
        for name in names:
            fleet.create(name)
        until(lambda: len(second.sessions) == len(fleet.follower.sessions) == len(names))
        for number in range(5):
            for name in names:
                fleet.send(name, f"more {number}")
        for name in names:
            fleet.send(name, "TOKENS 200 200")
        for name in names:
            fleet.wait(name, "idle")
        until(lambda: not Message.objects.pending().exists())
    finally:
        second.stop()
        thread.join(20)
    said = [f"more {number}" for number in range(5)]
    for name in names:
        assert fleet.texts(name, "user") == [*said, "TOKENS 200 200"]
        assert fleet.texts(name) == [*(f"echo: {each}" for each in said), words(200)]
        assert fleet.row(name).usage.count() == len(said) + 1
    check_nothing_is_open()


def test_removed_lock_file_is_locked_again(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "KEEP_SECONDS", 0.1)
    fleet.create("ada")
    path = fleet.follower._lock.path
    path.unlink()
    until(lambda: locks.is_held(path))
    second = Follower()
    thread = threading.Thread(target=second.run)
    thread.start()
    try:
        assert fleet.ask("ada", "hello") == "echo: hello"
        assert not second.sessions
    finally:
        second.stop()
        thread.join(20)


def test_follower_stops_when_another_holds_its_lock(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "KEEP_SECONDS", 0.1)
    fleet.create("ada")
    other = locks.FileLock(fleet.follower._lock.path)
    other.path.rename(other.path.with_name("swept"))
    assert other.try_take()
    until(lambda: not fleet.follower.sessions)
    other.release()
    until(lambda: fleet.follower.sessions)
    assert fleet.ask("ada", "hello") == "echo: hello"


def test_lock_or_database_errors_do_not_end_the_follower(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transactional_db: None
) -> None:
    """The lock's folder is removed, the disk is full, the database fails while it stands by."""
    tried: list[str] = []

    def other_follower(_self: object, _now: float) -> None:
        raise NotTheFollower("another follower is at work")

    def full_database(why: str) -> None:
        tried.append("note")
        raise OperationalError("the test fills the disk")

    def resign(_follower: str) -> None:
        raise ValueError("the test breaks what is done last")

    monkeypatch.setattr(follower, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(
        "lieutenants.supervision.watchdog.Watchdog.record_heartbeat", other_follower
    )
    monkeypatch.setattr("lieutenants.hosts.services.record_rival", full_database)
    monkeypatch.setattr("lieutenants.hosts.services.release_lease", resign)
    settings.RUN_DIR = tmp_path / "run"
    alone = Follower()
    take = alone._lock.try_take

    def no_room() -> bool:
        tried.append("lock")
        if len(tried) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return take()

    monkeypatch.setattr(alone._lock, "try_take", no_room)
    thread = threading.Thread(target=alone.run)
    thread.start()
    try:
        until(lambda: tried.count("note") > 1)
        assert thread.is_alive()
        assert tried[:2] == ["lock", "lock"]
        assert locks.is_held(tmp_path / "run" / "follower.lock")
    finally:
        alone.stop()
        thread.join(20)
    assert not thread.is_alive()
    assert not locks.is_held(tmp_path / "run" / "follower.lock")


def test_everything_works_without_redis(fleet: Fleet, settings: Any, tmp_path: Path) -> None:
    settings.REDIS_URL = f"unix://{tmp_path}/nobody.sock"
    broker.client.cache_clear()
    fleet.restart_follower()
    fleet.create("ada")
    assert fleet.ask("ada", "hello") == "echo: hello"
    broker.client.cache_clear()


def test_message_shows_its_states_and_evidence(fleet: Fleet) -> None:
    fleet.create("ada")
    message = fleet.send("ada", "SLOW 1 one two")
    path = f"{LIEUTENANTS}/ada/messages/{message.pk}"
    until(lambda: fleet.api.get(path).json()["state"] == "accepted")
    facts = fleet.api.get(path).json()
    assert facts["evidence"] == {
        "id": message.pk,
        "type": "response",
        "command": "prompt",
        "success": True,
    }
    times = [facts[key] for key in ("createdAt", "deliveredAt", "decidedAt")]
    assert times == sorted(times)
    fleet.wait("ada", "idle")
    facts = fleet.api.get(path).json()
    assert facts["takenUpAt"]
    assert facts["usage"]["output"] > 0


def test_same_idempotency_key_returns_the_same_message(fleet: Fleet) -> None:
    fleet.create("ada")
    path = f"{LIEUTENANTS}/ada/send"

    def send(_: int) -> tuple[int, str]:
        try:
            answer = fleet.api.post(path, {"message": "once"}, **{"idempotency-key": "k1"})
            return answer.status_code, answer.json().get("messageId", "")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        answers = set(pool.map(send, range(6)))
    assert len(answers) == 1
    assert answers.pop()[0] == 200
    other = fleet.api.post(path, {"message": "twice"}, **{"idempotency-key": "k1"})
    assert other.status_code == 409
    fleet.wait("ada", "idle")
    assert fleet.texts("ada") == ["echo: once"]
    assert fleet.row("ada").task_count == 1


def test_messages_wait_until_the_agent_is_ready(fleet: Fleet) -> None:
    fleet.stop_follower()
    fleet.create("ada", ready=False)
    sent = [fleet.send("ada", f"number {number}") for number in range(4)]
    assert {each.note for each in sent} == {"queued until the lieutenant is ready"}
    assert {each.state for each in Message.objects.all()} == {MessageState.QUEUED}
    fleet.follower = Follower()
    fleet.thread = threading.Thread(target=fleet.follower.run)
    fleet.thread.start()
    fleet.wait("ada", "idle")
    assert fleet.texts("ada") == [f"echo: number {number}" for number in range(4)]
    assert fleet.row("ada").task_count == 4


def test_messages_sent_in_a_row_are_answered_in_order(fleet: Fleet) -> None:
    fleet.create("ada")
    for number in range(25):
        fleet.send("ada", f"number {number}")
    fleet.wait("ada", "idle")
    assert fleet.texts("ada") == [f"echo: number {number}" for number in range(25)]
    assert fleet.texts("ada", "user") == [f"number {number}" for number in range(25)]
    check_nothing_is_open()


def test_steer_and_follow_up_to_an_idle_lieutenant_become_prompts(fleet: Fleet) -> None:
    fleet.create("ada")
    for mode in ("steer", "followUp"):
        fleet.wait("ada", "idle")
        message = fleet.send("ada", mode, mode)
        assert (message.mode, message.mode_asked) == ("prompt", mode)
        assert message.note == "sent as prompt since lieutenant is idle"
    fleet.wait("ada", "idle")
    assert fleet.texts("ada") == ["echo: steer", "echo: followUp"]


@pytest.mark.parametrize("mode", ["", "old", "fat", "old,fat"])
def test_all_kinds_of_answers_of_all_kinds_of_agents(
    fleet: Fleet, settings: Any, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("STANDIN_MODE", mode)
    settings.AGENT_ENV = [*settings.AGENT_ENV, "STANDIN_MODE"]
    fleet.create("ada")
    assert fleet.ask("ada", "THINK about") == "echo: about"
    assert fleet.texts("ada", "thinking") == ["let me see"]
    assert fleet.ask("ada", "TOOL now") == "the tool said hi now"
    assert fleet.texts("ada", "tool_result") == ["hi\n"]
    assert fleet.ask("ada", "TOKENS 300 0") == words(300)
    fleet.ask("ada", "ERROR 503 no capacity")
    assert fleet.texts("ada", "error") == ["503 no capacity"]
    assert fleet.get("ada")["trouble"] == "503 no capacity"
    assert fleet.ask("ada", "better?") == "echo: better?"
    assert "trouble" not in fleet.get("ada")
    assert fleet.get("ada")["usage"]["calls"] == 6
    check_nothing_is_open()


def test_journal_longer_than_a_pass_is_read_completely(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is longer than a pass may read, and contains a record larger than that."""
    monkeypatch.setattr(follower, "SESSION_BYTES", 2000)
    monkeypatch.setattr(follower, "PASS_BYTES", 3000)
    fleet.create("ada")
    fleet.create("bea")
    fleet.send("ada", "TOKENS 2000 0")
    fleet.send("bea", "x" * 20_000)
    fleet.wait("ada", "idle")
    fleet.wait("bea", "idle")
    assert fleet.texts("ada") == [words(2000)]
    assert fleet.texts("bea") == ["echo: " + "x" * 20_000]


def test_worker_crash_during_a_start_leaves_one_process(fleet: Fleet, worker: Worker) -> None:
    names = [f"l{number}" for number in range(4)]
    for name in names:
        fleet.create(name, ready=False)
        worker.start()
    for name in names:
        fleet.wait(name, "idle", 90)
        assert fleet.ask(name, "hello") == "echo: hello"
    assert Process.objects.live().count() == 4


def test_checks_take_no_query_for_each_agent(fleet: Fleet) -> None:
    for name in ("one", "two", "three"):
        fleet.create(name, agent="command", command=["cat"])
    fleet.stop_follower()
    follower = Follower()
    follower.refresh()  # opens the sessions
    with CaptureQueriesContext(connection) as queries:
        follower.refresh()
    fleet.restart_follower()
    shapes = Counter(re.sub(r"'[^']*'", "?", each["sql"]) for each in queries)
    assert shapes
    assert [sql for sql, count in shapes.items() if count >= 3] == []
