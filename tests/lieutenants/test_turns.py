"""Turns of a follower: what many or long records in some journals do to the others.

Keepers are replaced by files that the test writes.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from lieutenants import membership
from lieutenants.exceptions import TransportError
from lieutenants.models import Chunk, Entry, Lieutenant, Process
from lieutenants.sessions.session import Session
from lieutenants.supervision import follower
from lieutenants.supervision.checks import lost_processes
from lieutenants.supervision.checks.background import Background
from lieutenants.supervision.follower import Follower
from lieutenants.supervision.transports.local import LocalTransport
from tests.dispatching import drop_tasks

pytestmark = pytest.mark.django_db
CALM = 9
# A flood of events that are never left out, in a journal that nobody has read for a while.
SHORT_RECORDS = 20_000
BYTES = 8 << 20
LONG_RECORD = 6 << 20


def line(*record: Any) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def event(kind: str, **fields: Any) -> bytes:
    return line("e", 1_790_000_000_000, {"type": kind, **fields})


def result(number: int, size: int) -> bytes:
    content = {"content": [{"type": "text", "text": "x" * size}]}
    ends = {"toolCallId": f"c{number}", "toolName": "bash", "result": content}
    return event("tool_execution_end", **ends)


# Journals whose agents have started to work.
FLOODS = {
    "20,000 events": event("turn_start") * SHORT_RECORDS,
    "tool output": b"".join(result(number, 50_000) for number in range(BYTES // 50_000)),
    "one long record": result(1, LONG_RECORD),
}


class Journal:
    """A lieutenant whose keeper is a file, in the folder of a run that this process has locked."""

    def __init__(self, name: str) -> None:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        handle = {"keeper_pid": os.getpid(), "keeper_started": int(fields[19])}
        row = Lieutenant.objects.create(
            name=name, role="tests", host=settings.HOST, status="idle", folder="/"
        )
        membership.register(row, actor="tests")
        folder = Path(settings.LIEUTENANTS_DIR, row.pk, "runs", "run")
        folder.mkdir(parents=True)
        self.row = Process.objects.create(
            lieutenant=row,
            host=settings.HOST,
            transport="local",
            directory=str(folder),
            handle=handle,
            ready_at=timezone.now(),
        )
        (folder / "control.sock").touch()
        self.file = folder / "journal.jsonl"
        self.file.touch()
        self.folder = os.open(folder, os.O_RDONLY)
        fcntl.flock(self.folder, fcntl.LOCK_EX)

    def write(self, data: bytes) -> None:
        with self.file.open("ab") as file:
            file.write(data)

    def unread(self) -> int:
        """Return how many bytes are not committed yet."""
        self.row.refresh_from_db()
        return self.file.stat().st_size - self.row.offset


class Pool:
    """A follower that makes one pass at a time, and journals that it follows."""

    def __init__(self, names: list[str]) -> None:
        self.journals = [Journal(name) for name in names]
        self.follower = Follower()
        for journal in self.journals:
            self.follower.sessions[journal.row.pk] = Session.open(journal.row)
        self.clock = 100.0

    def make_pass(self) -> bool:
        """Read all journals once; return whether there was anything to write."""
        self.clock += 1.0
        return self.follower.follow(self.clock)

    def close(self) -> None:
        self.follower.outbox.close()
        for journal in self.journals:
            os.close(journal.folder)


@pytest.fixture
def pools(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Any, redis_server: str
) -> Iterator[Any]:
    monkeypatch.setattr(LocalTransport, "send", lambda *_: None)
    drop_tasks(monkeypatch, "")
    settings.LIEUTENANTS_DIR = tmp_path
    made: list[Pool] = []

    def make(*names: str) -> Pool:
        made.append(Pool(list(names)))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_calm_agents_are_read_in_each_pass_beside_a_flood(pools: Any, flood: bytes) -> None:
    pool = pools("loud", *(f"calm-{number}" for number in range(CALM)))
    loud, *calm = pool.journals
    for journal in pool.journals:
        journal.write(event("agent_start"))
    pool.make_pass()
    loud.write(flood)
    passes = 0
    while loud.unread():
        for journal in calm:
            journal.write(line("t", 0, f"pass {passes} "))
        before = loud.unread()
        pool.make_pass()
        passes += 1
        assert [journal.unread() for journal in calm] == [0] * CALM
        assert 0 < before - loud.unread() <= max(follower.SESSION_BYTES, LONG_RECORD + 1000)

    assert passes >= 1
    told = "".join(f"pass {number} " for number in range(passes))
    for journal in calm:
        texts = Chunk.objects.filter(entry__lieutenant=journal.row.lieutenant)
        assert "".join(texts.order_by("id").values_list("text", flat=True)) == told


def test_pass_has_a_limited_number_of_records(pools: Any) -> None:
    pool = pools("a", "b", "c")
    for journal in pool.journals:
        journal.write(event("agent_start") + event("turn_start") * SHORT_RECORDS)
    size = pool.journals[0].unread()
    pool.make_pass()

    record = len(event("turn_start"))
    done = [(size - journal.unread()) // record for journal in pool.journals]
    assert sum(done) <= follower.PASS_RECORDS
    assert max(done) <= follower.SESSION_RECORDS


def test_calm_agent_among_many_floods_gets_its_turn(pools: Any) -> None:
    names = [f"loud-{number}" for number in range(8)]
    pool = pools(*names[:4], "calm", *names[4:])
    calm = pool.journals[4]
    for journal in pool.journals:
        journal.write(event("agent_start"))
        if journal is not calm:
            journal.write(event("turn_start") * SHORT_RECORDS)
    # A pass has room for two floods.
    turns = len(names) * follower.SESSION_RECORDS // follower.PASS_RECORDS + 1
    for _ in range(2):
        calm.write(line("t", 0, "word "))
        for _ in range(turns):
            pool.make_pass()
        assert calm.unread() == 0
        assert any(journal.unread() for journal in pool.journals)


def test_open_calls_of_an_agent_are_limited(pools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lieutenants.transcript.recorder.MAX_OPEN_CALLS", 5)
    monkeypatch.setattr("lieutenants.transcript.recorder.MAX_FINISHED_CALLS", 5)
    pool = pools("ada")
    (ada,) = pool.journals
    starts = (
        event("tool_execution_start", toolCallId=f"c{number}", toolName="bash")
        for number in range(20)
    )
    ada.write(event("agent_start") + b"".join(starts))
    pool.make_pass()

    calls = Entry.objects.filter(kind=Entry.Kind.TOOL_RESULT)
    assert calls.count() == 20
    assert list(calls.filter(final=False).order_by("id").values_list("call_id", flat=True)) == [
        f"c{number}" for number in range(15, 20)
    ]
    (session,) = pool.follower.sessions.values()
    assert len(session.recorder.results) == 5


def test_long_journal_of_a_dead_keeper_is_read_in_passes_before_its_end(
    pools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_processes, "LAST_RECORDS", 10)
    monkeypatch.setattr(LocalTransport, "stop", lambda *_: None)
    pool = pools("ada")
    (ada,) = pool.journals
    ada.write(event("agent_start") + event("turn_start") * 50 + b'["torn')
    (session,) = pool.follower.sessions.values()
    lost = lost_processes.LostProcesses(Background())

    assert not lost.end(session, while_away=False)
    assert ada.unread() == ada.file.stat().st_size
    pool.make_pass()
    assert lost.end(session, while_away=False)
    ada.row.refresh_from_db()
    assert ada.row.ended_at is not None
    assert ada.unread() == len(b'["torn')


def test_end_of_a_journal_that_is_cut_inside_of_a_record_is_read_in_passes(
    pools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = event("agent_start") + event("turn_start") * 3
    monkeypatch.setattr(lost_processes, "LAST_BYTES", len(records) - 5)
    monkeypatch.setattr(LocalTransport, "stop", lambda *_: None)
    pool = pools("ada")
    (ada,) = pool.journals
    ada.write(records)
    (session,) = pool.follower.sessions.values()
    lost = lost_processes.LostProcesses(Background())

    assert not lost.end(session, while_away=False)
    assert ada.unread() == len(records)
    pool.make_pass()
    assert lost.end(session, while_away=False)
    assert ada.unread() == 0
    ada.row.refresh_from_db()
    assert ada.row.ended_at is not None


def test_torn_record_that_fills_the_end_of_a_journal_does_not_keep_a_process(
    pools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_processes, "LAST_BYTES", 10)
    monkeypatch.setattr(LocalTransport, "stop", lambda *_: None)
    pool = pools("ada")
    pool.journals[0].write(b"x" * 20)
    (session,) = pool.follower.sessions.values()
    assert lost_processes.LostProcesses(Background()).end(session, while_away=False)


def test_end_of_a_journal_that_cannot_be_read_is_tried_again_for_a_while(
    pools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalTransport, "stop", lambda *_: None)
    pool = pools("ada", "bea")
    ada, bea = pool.journals
    ada.write(event("agent_start"))
    by_name = {each.lieutenant.name: each for each in pool.follower.sessions.values()}
    lost = lost_processes.LostProcesses(Background())

    def fail(*_: object) -> bytes:
        raise TransportError("The journal cannot be read: Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(LocalTransport, "read", fail)
        assert not lost.end(by_name["ada"], while_away=False)
        assert not lost.end(by_name["bea"], while_away=False)
        broken.setattr(lost_processes, "GIVE_UP_SECONDS", 0.0)
        assert lost.end(by_name["bea"], while_away=False)
    assert lost.end(by_name["ada"], while_away=False)
    assert ada.unread() == 0
    for each in (ada, bea):
        each.row.refresh_from_db()
        assert each.row.ended_at is not None


def test_end_of_a_journal_is_read_behind_a_missing_part(
    pools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalTransport, "stop", lambda *_: None)
    pool = pools("ada")
    (ada,) = pool.journals
    torn = b"x" * 40 + b"\n"
    with ada.file.open("r+b") as file:
        file.seek(3 << 20)
        file.write(torn + event("agent_start") + result(1, 10))
    (session,) = pool.follower.sessions.values()

    assert lost_processes.LostProcesses(Background()).end(session, while_away=False)
    assert ada.unread() == 0
    assert ada.row.ended_at is not None
    texts = list(Entry.objects.values_list("text", flat=True))
    assert texts[:2] == ["3.1 MB of the agent's output are lost.", "x" * 10]


def test_missing_part_without_an_end_is_given_up(
    pools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalTransport, "stop", lambda *_: None)
    pool = pools("ada")
    (ada,) = pool.journals
    os.truncate(ada.file, 8192)
    (session,) = pool.follower.sessions.values()
    lost = lost_processes.LostProcesses(Background())

    def fail(*_: object) -> int:
        raise TransportError("The journal cannot be read: No such device or address")

    # Not every file system reports holes.
    monkeypatch.setattr(LocalTransport, "skip_gap", fail)
    assert not lost.end(session, while_away=False)
    monkeypatch.setattr(lost_processes, "GIVE_UP_SECONDS", 0.0)
    assert lost.end(session, while_away=False)
    ada.row.refresh_from_db()
    assert ada.row.ended_at is not None


def test_journal_that_fails_while_it_is_read_has_a_named_error(tmp_path: Path) -> None:
    # A folder can be opened like a file, and only reading it fails.
    tmp_path.joinpath("journal.jsonl").mkdir()
    tmp_path.joinpath("journal.jsonl", "file").touch()
    with pytest.raises(TransportError, match="The journal cannot be read: Is a directory"):
        LocalTransport().read(str(tmp_path), 0, 100)


def test_long_record_that_cannot_be_read_does_not_stop_the_others(
    pools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pools("ada", "bea")
    ada, bea = pool.journals
    ada.write(b"x" * (follower.SESSION_BYTES + 1))
    bea.write(event("agent_start"))

    def fail(_: Session) -> None:
        raise TransportError("The journal cannot be read: Input/output error")

    monkeypatch.setattr(Follower, "_long_record", staticmethod(fail))
    assert pool.make_pass()
    assert bea.unread() == 0
