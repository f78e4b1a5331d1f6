"""The line to a machine fails at random moments: nothing is lost, doubled or ended."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from lieutenants.models import Answer, Chunk, Message
from lieutenants.states import MessageState, Outcome
from lieutenants.supervision.transports.ssh import backoff, connection
from lieutenants.supervision.transports.ssh.transport import SshTransport
from tests.clocks import Clock
from tests.conftest import STANDIN
from tests.lieutenants.remote.conftest import Site
from tests.stack import pause
from tests.waiting import until

FAULTS = ("stall", "reset", "reset at once", "loss")


def spoken(site: Site, name: str) -> dict[str, list[str]]:
    """Map roles to the texts in the session file that the stand-in keeps on the machine."""
    file = site.folder(name) / "session" / "session.jsonl"
    found: dict[str, list[str]] = {"user": [], "assistant": []}
    for line in file.read_text().splitlines():
        message = json.loads(line).get("message") or {}
        if message.get("role") in found:
            texts = [block["text"] for block in message["content"] if block["type"] == "text"]
            found[message["role"]] += texts
    return found


def fail(site: Site, fault: str, seconds: float) -> None:
    """Let the line fail for a time."""
    if fault == "stall":
        site.line.stall()
    elif fault == "loss":
        site.line.lose()
        site.line.stall()
    else:
        site.line.cut(refuse=fault == "reset")
    pause(seconds)
    site.line.flow()


@pytest.mark.rotated
@pytest.mark.parametrize(
    ("cuts", "longest", "rate"),
    [(4, 1.5, 150), pytest.param(30, 60.0, 30, marks=pytest.mark.thorough)],
)
@pytest.mark.timeout(1800)
def test_nothing_is_lost_or_doubled_by_cuts(
    site: Site, monkeypatch: pytest.MonkeyPatch, cuts: int, longest: float, rate: int
) -> None:
    monkeypatch.setattr("lieutenants.agents.pi.program.REMOTE_PATHS", (str(STANDIN),))
    if longest < connection.DEAD_SECONDS:
        for name, seconds in (("PING", 0.3), ("OVERDUE", 0.3), ("STALL", 0.6), ("DEAD", 1.5)):
            monkeypatch.setattr(connection, f"{name}_SECONDS", seconds)
    chance = random.Random(cuts)
    site.create("far", agent="pi")
    sent: list[str] = []

    def send(mode: str | None = None) -> None:
        sent.append(f"TOKENS {300 + len(sent)} {rate}")
        site.fleet.send("far", sent[-1], mode)

    send()
    for number in range(cuts):
        pause(chance.random() * 0.4)
        send("followUp")
        # The next cut is in the middle of this message, or a little later.
        pause(chance.choice([0, chance.random() * 0.1]))
        fail(site, FAULTS[number % len(FAULTS)], 0.1 + chance.random() ** 3 * longest)
    site.fleet.wait("far", "idle", 60 + 12 * cuts)

    truth = spoken(site, "far")
    assert truth["user"] == sent
    assert site.fleet.texts("far", "user") == sent
    assert site.fleet.texts("far") == truth["assistant"]
    assert len(truth["assistant"]) == len(sent)
    assert set(Message.objects.values_list("state", flat=True)) == {MessageState.ACCEPTED}
    assert not Chunk.objects.exists()
    assert site.fleet.row("far").restarts == 0


# Says something, waits for a file, and says much more.
GATED = """
import pathlib, sys, time
sys.stdout.write("It begins. ")
sys.stdout.flush()
while not pathlib.Path("gate").exists():
    time.sleep(0.02)
for number in range(12000):
    sys.stdout.write("line %d äöü\\n" % number)
sys.stdout.write("the end")
"""
ALL_OF_IT = "It begins. " + "".join(f"line {each} äöü\n" for each in range(12000)) + "the end"


@pytest.mark.rotated
def test_cut_of_an_hour_is_caught_up_in_one_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[int] = []
    really_read = SshTransport.read

    def read(transport: SshTransport, directory: str, offset: int, limit: int) -> bytes:
        data = really_read(transport, directory, offset, limit)
        pieces.extend([len(data)] if data else [])
        return data

    monkeypatch.setattr(SshTransport, "read", read)
    clock = Clock(monkeypatch)
    limits: dict[str, Any] = {"stallLimitSeconds": 60, "toolLimitSeconds": 60}
    site.create("far", ["python3", "-c", GATED], **limits)
    site.fleet.send("far", "go")
    until(lambda: site.fleet.get("far")["lastOutput"].startswith("It begins."))
    site.line.cut(refuse=True)
    until(lambda: site.fleet.get("far").get("trouble"), 30)
    began = site.fleet.get("far")["trouble"]
    (site.folder("far") / "workspace" / "gate").touch()
    (journal,) = site.folder("far").glob("runs/*/journal.jsonl")
    until(lambda: "agent_settled" in Path(journal).read_text(), 30)
    for _ in range(60):
        clock.advance(60)
        pause(0.01)
    until(lambda: site.fleet.get("far")["status"] == "working")
    # The page says since when; the reason may have changed. By the clock that has jumped, the
    # follower itself seems to be silent until its next sign of life.
    since = began.partition("UTC")[0]
    until(lambda: site.fleet.get("far")["trouble"].partition("UTC")[0] == since)
    waiting = site.fleet.send("far", "and this")
    before = site.fleet.process("far").offset
    left = journal.stat().st_size - before
    pieces.clear()

    site.line.flow()
    clock.advance(backoff.LONG_SECONDS * 2)
    site.fleet.wait("far", "idle", 40)
    assert pieces[0] == left
    first = Answer.objects.order_by("id")[0]
    assert (first.outcome, first.text) == (Outcome.COMPLETED, ALL_OF_IT)
    assert not site.fleet.get("far").get("trouble")
    assert site.fleet.texts("far", "user") == ["go", "and this"]
    waiting.refresh_from_db()
    assert waiting.state == MessageState.ACCEPTED
    assert site.fleet.texts("far")[-1] == ALL_OF_IT


@pytest.mark.rotated
def test_tool_that_ended_during_a_cut_is_not_overlong(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lieutenants.agents.pi.program.REMOTE_PATHS", (str(STANDIN),))
    clock = Clock(monkeypatch)
    site.create("far", agent="pi", toolLimitSeconds=60)
    site.fleet.send("far", "HANG 2 bash")
    until(lambda: site.fleet.texts("far", "tool_result"))
    site.line.cut(refuse=True)
    until(lambda: site.fleet.get("far").get("trouble"), 30)
    until(lambda: "done" in spoken(site, "far")["assistant"])
    really_read = SshTransport.read
    is_slow = True
    monkeypatch.setattr(
        SshTransport, "read", lambda *asked: b"" if is_slow else really_read(*asked)
    )
    for _ in range(60):
        clock.advance(60)
        pause(0.02)
    site.line.flow()
    clock.advance(backoff.LONG_SECONDS * 2)
    # The machine is in reach again before the rest of the journal is here.
    until(lambda: not site.fleet.get("far").get("trouble"), 30)
    is_slow = False
    site.fleet.wait("far", "idle", 40)
    assert site.fleet.texts("far")[-1] == "done"
    assert Answer.objects.get().outcome == Outcome.COMPLETED
    assert not site.fleet.texts("far", "error")
