"""Ends of agents and keepers, by themselves and by others, and what follows."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from lieutenants.models import Answer, Lieutenant, Message, Process
from lieutenants.sessions.rules import endings
from lieutenants.states import MAX_RESTARTS, MessageState, Outcome
from lieutenants.supervision.transports import get_transport
from tests.conftest import Fleet
from tests.waiting import PATIENCE, until

LIEUTENANTS = "/lieutenant/lieutenants"


def lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


@pytest.fixture
def mode(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the stand-in's behaviour from its next start on."""
    settings.AGENT_ENV = [*settings.AGENT_ENV, "STANDIN_MODE"]
    return lambda value: monkeypatch.setenv("STANDIN_MODE", value)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "FIRST_RESTART_DELAY", 0.05)


def test_exit_during_an_answer_is_reported_with_stderr(fleet: Fleet) -> None:
    fleet.create("ada")
    message = fleet.send("ada", "DIE 3")
    row = fleet.wait("ada", "error")
    assert row.error == ("The agent ended with exit code 3.\nError: the stand-in was told to die")
    assert fleet.texts("ada") == ["I am about to"]
    assert fleet.get("ada")["outputHistory"] == ["I am about to"]
    assert Answer.objects.get().outcome == Outcome.INTERRUPTED
    process = Process.objects.get()
    assert (process.exit_code, process.exit_signal) == (3, None)
    assert process.stderr == "Error: the stand-in was told to die"
    message.refresh_from_db()
    assert message.state == MessageState.ACCEPTED
    assert row.restart_at is None
    answer = fleet.api.post(f"{LIEUTENANTS}/ada/send", {"message": "there?"})
    assert answer.status_code == 400


def test_death_by_signal_is_noticed_at_once_and_named(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.send("ada", "SLOW 60 " + "word " * 600)
    until(lambda: fleet.get("ada")["lastOutput"].count("word") > 3)
    os.kill(fleet.process("ada").handle["agent_pid"], signal.SIGSEGV)
    killed = time.monotonic()
    row = fleet.wait("ada", "error", 5)
    assert time.monotonic() - killed < 2 * PATIENCE
    assert row.error.startswith("The agent was killed by SIGSEGV.")
    assert row.moves.filter(reason=row.error, new="error").exists()
    answer = Answer.objects.get()
    assert answer.outcome == Outcome.INTERRUPTED
    assert answer.text.startswith("word word word ")


def test_death_of_an_idle_agent_is_noticed_at_once(fleet: Fleet) -> None:
    fleet.create("ada")
    os.kill(fleet.process("ada").handle["agent_pid"], signal.SIGKILL)
    killed = time.monotonic()
    fleet.wait("ada", "error", 5)
    assert time.monotonic() - killed < 2 * PATIENCE


def test_policy_never_does_not_restart(fleet: Fleet, short_pauses: None) -> None:
    fleet.create("ada")
    fleet.send("ada", "KILL")
    row = fleet.wait("ada", "error")
    assert (row.restart_at, row.restarts, row.restart_policy) == (None, 0, "never")
    fleet.create("bea")  # some rounds of the follower later
    assert fleet.ask("bea", "hello") == "echo: hello"
    assert fleet.row("ada").status == "error"
    assert Process.objects.filter(lieutenant=row).count() == 1


def test_policy_on_failure_restarts_with_the_session(fleet: Fleet, short_pauses: None) -> None:
    fleet.create("ada", restartPolicy="on-failure")
    fleet.ask("ada", "my number is 4711")
    fleet.send("ada", "KILL")
    until(lambda: Process.objects.count() == 2)
    fleet.wait("ada", "idle")
    assert "my number is 4711" in fleet.ask("ada", "RECALL")
    reasons = [move.reason.split("\n")[0] for move in fleet.row("ada").moves.all()]
    assert "The agent was killed by SIGKILL." in reasons
    assert "try 1 to start it again" in reasons


@pytest.mark.rotated
def test_restarts_end_after_five_attempts(fleet: Fleet, mode: Any, short_pauses: None) -> None:
    mode("exit:7")
    fleet.create("ada", ready=False, restartPolicy="on-failure")

    def given_up() -> bool:
        row = fleet.row("ada")
        return row.status == "error" and row.restart_at is None

    until(given_up, 30)
    row = fleet.row("ada")
    assert row.restarts == MAX_RESTARTS
    assert "exit code 7" in row.error
    assert "Error: the stand-in exits at once" in row.error
    processes = list(Process.objects.order_by("started_at"))
    assert len(processes) == MAX_RESTARTS + 1
    assert all(process.ended_at for process in processes)
    mode("")
    assert fleet.api.post(f"{LIEUTENANTS}/ada/restart").status_code == 200
    fleet.wait("ada", "idle")
    assert fleet.row("ada").restarts == 0


@pytest.mark.rotated
def test_delay_before_a_restart_doubles(
    fleet: Fleet, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "FIRST_RESTART_DELAY", 1000.0)
    mode("exit:7")
    fleet.create("ada", ready=False, restartPolicy="on-failure")

    def wait_for_death(number: int) -> Lieutenant:
        died = Process.objects.filter(ended_at__isnull=False)
        until(lambda: died.count() == number and fleet.row("ada").status == "error")
        return fleet.row("ada")

    for number in range(MAX_RESTARTS):
        due = wait_for_death(number + 1).restart_at
        assert due
        pause = (due - timezone.now()).total_seconds()
        assert 1000 * 2**number - 30 < pause <= 1000 * 2**number
        queued = fleet.send("ada", f"message {number}")
        assert queued.note == "queued until the lieutenant is running again"
        Lieutenant.objects.filter(name="ada").update(restart_at=timezone.now())
    assert wait_for_death(MAX_RESTARTS + 1).restart_at is None


def test_unstarted_messages_reach_the_next_process_once(fleet: Fleet, short_pauses: None) -> None:
    fleet.create("ada", restartPolicy="on-failure")
    fleet.send("ada", "SLOW 60 " + "word " * 600)
    until(lambda: fleet.get("ada")["lastOutput"])
    later = [fleet.send("ada", f"later {number}") for number in range(3)]
    assert Message.objects.filter(state=MessageState.QUEUED).count() == 3
    os.kill(fleet.process("ada").handle["agent_pid"], signal.SIGKILL)
    until(lambda: Process.objects.count() == 2)
    fleet.wait("ada", "idle")
    assert fleet.texts("ada")[1:] == [f"echo: later {number}" for number in range(3)]
    for message in later:
        message.refresh_from_db()
        assert message.state == MessageState.ACCEPTED
        assert message.taken_up_at is not None


def test_dead_keeper_is_replaced_and_leaves_no_agent(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.ask("ada", "my number is 4711")
    child = int(fleet.ask("ada", "CHILD").split()[1])
    first = fleet.process("ada")
    os.kill(first.handle["keeper_pid"], signal.SIGKILL)
    until(lambda: Process.objects.live().exclude(pk=first.pk).exists())
    fleet.wait("ada", "idle")
    assert not lives(first.handle["agent_pid"])
    assert not lives(child)
    assert "my number is 4711" in fleet.ask("ada", "RECALL")
    first.refresh_from_db()
    assert first.end_reason.startswith("Its process vanished")


def test_keeper_crash_during_an_answer_keeps_the_partial_text(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.send("ada", "SLOW 60 " + "word " * 600)
    until(lambda: fleet.get("ada")["lastOutput"].count("word") > 3)
    os.kill(fleet.process("ada").handle["keeper_pid"], signal.SIGKILL)
    until(lambda: Process.objects.count() == 2)
    fleet.wait("ada", "idle")
    assert fleet.get("ada")["outputHistory"][0].startswith("word word")
    assert Answer.objects.get().outcome == Outcome.INTERRUPTED
    assert fleet.ask("ada", "hello") == "echo: hello"


def test_reboot_restarts_running_lieutenants_with_their_sessions(fleet: Fleet) -> None:
    for name in ("ada", "bea", "cyd"):
        fleet.create(name)
        fleet.ask(name, f"I am {name}")
    fleet.api.post(f"{LIEUTENANTS}/cyd/pause")
    until(lambda: fleet.row("cyd").live_process() is None)
    fleet.send("bea", "SLOW 60 " + "word " * 600)
    until(lambda: fleet.get("bea")["lastOutput"])
    fleet.stop_follower()
    for process in Process.objects.live():
        os.kill(process.handle["keeper_pid"], signal.SIGKILL)
        os.killpg(process.handle["agent_pid"], signal.SIGKILL)
    fleet.restart_follower()
    until(lambda: Process.objects.count() == 5)
    for name in ("ada", "bea"):
        fleet.wait(name, "idle")
        assert f"I am {name}" in fleet.ask(name, "RECALL")
    assert fleet.row("cyd").status == "paused"
    assert fleet.row("cyd").live_process() is None


def test_pause_and_resume_keep_the_session(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.ask("ada", "my number is 4711")
    pid = fleet.process("ada").handle["agent_pid"]
    assert fleet.api.post(f"{LIEUTENANTS}/ada/pause").json() == {"paused": True}
    assert fleet.api.post(f"{LIEUTENANTS}/ada/pause").json() == {"paused": True}
    until(lambda: fleet.row("ada").live_process() is None)
    assert not lives(pid)
    assert fleet.api.post(f"{LIEUTENANTS}/ada/send", {"message": "x"}).status_code == 400
    assert fleet.api.post(f"{LIEUTENANTS}/ada/resume").json() == {"resumed": True}
    fleet.wait("ada", "idle")
    assert fleet.api.post(f"{LIEUTENANTS}/ada/resume").status_code == 400
    assert "my number is 4711" in fleet.ask("ada", "RECALL")


def test_forced_pause_keeps_partial_answer_and_queue(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.send("ada", "SLOW 60 " + "word " * 600)
    until(lambda: fleet.get("ada")["lastOutput"])
    fleet.send("ada", "later")
    assert Message.objects.filter(state=MessageState.QUEUED).count() == 1
    assert fleet.api.post(f"{LIEUTENANTS}/ada/pause").status_code == 400
    assert fleet.api.post(f"{LIEUTENANTS}/ada/pause", {"force": True}).status_code == 200
    until(lambda: fleet.row("ada").live_process() is None)
    assert Answer.objects.get().outcome == Outcome.ABORTED
    fleet.api.post(f"{LIEUTENANTS}/ada/resume")
    until(lambda: fleet.texts("ada")[1:] == ["echo: later"])
    fleet.wait("ada", "idle")


def test_restart_starts_a_new_process_with_the_same_session(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.ask("ada", "my number is 4711")
    first = fleet.process("ada")
    assert fleet.api.post(f"{LIEUTENANTS}/ada/restart").status_code == 200
    until(lambda: Process.objects.live().exclude(pk=first.pk).exists())
    fleet.wait("ada", "idle")
    assert not lives(first.handle["agent_pid"])
    assert "my number is 4711" in fleet.ask("ada", "RECALL")


def test_rapid_pause_resume_pause_ends_paused(fleet: Fleet) -> None:
    fleet.create("ada")
    for verb in ("pause", "resume", "pause", "resume", "pause"):
        assert fleet.api.post(f"{LIEUTENANTS}/ada/{verb}").status_code == 200
    until(lambda: fleet.row("ada").live_process() is None)
    assert fleet.row("ada").status == "paused"
    fleet.api.post(f"{LIEUTENANTS}/ada/resume")
    fleet.wait("ada", "idle")
    assert fleet.ask("ada", "hello") == "echo: hello"


@pytest.mark.rotated
def test_destroy_during_a_start_leaves_nothing(fleet: Fleet) -> None:
    made = fleet.create("ada", ready=False)
    assert fleet.api.delete(f"{LIEUTENANTS}/ada").status_code == 200
    assert fleet.api.delete(f"{LIEUTENANTS}/ada").status_code == 200

    def nothing_left() -> bool:
        rows = Process.objects.filter(lieutenant=made["id"])
        gone = all(not get_transport("local").alive(row.handle) for row in rows if row.handle)
        return gone and not rows.live().exists()

    until(nothing_left)
    fleet.create("ada")
    assert fleet.ask("ada", "RECALL") == "recall: "


def test_destroy_all_lists_each_lieutenant(fleet: Fleet) -> None:
    for name in ("ada", "bea"):
        fleet.create(name)
    results = fleet.api.post(f"{LIEUTENANTS}/destroy-all").json()["results"]
    assert results == [f"{name}: destroyed (local, 0 tasks completed)" for name in ("ada", "bea")]
    until(lambda: not Process.objects.live().exists())


def test_external_stop_is_graceful_and_followed_by_a_restart(fleet: Fleet) -> None:
    """Someone ends the keeper with SIGTERM: it stops its agent, and reef starts it again."""
    fleet.create("ada")
    first = fleet.process("ada")
    os.kill(first.handle["keeper_pid"], signal.SIGTERM)
    until(lambda: Process.objects.live().exclude(pk=first.pk).exists())
    fleet.wait("ada", "idle")
    assert not lives(first.handle["agent_pid"])


def test_death_is_reported_while_another_lieutenant_starts(fleet: Fleet, mode: Any) -> None:
    """A slow start of one lieutenant does not delay the report on another's end."""
    fleet.create("ada")
    mode("mute")
    fleet.create("bea", ready=False)
    until(lambda: Process.objects.filter(lieutenant__name="bea").exclude(handle={}))
    os.kill(fleet.process("ada").handle["agent_pid"], signal.SIGKILL)
    fleet.wait("ada", "error", 2)
    assert threading.active_count() < 60
