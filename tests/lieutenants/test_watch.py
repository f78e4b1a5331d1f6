"""Checks that depend on time: silence, limits, dialogs, aborts."""

from __future__ import annotations

import itertools
import os
import signal
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from lieutenants.models import Answer, Lieutenant, LifeSign, Message, Process, Question
from lieutenants.questions.states import QuestionState
from lieutenants.states import MessageState, Outcome
from lieutenants.supervision import watchdog
from lieutenants.supervision.checks import silence
from tests.conftest import Fleet
from tests.dispatching import drop_tasks
from tests.waiting import until

LIEUTENANTS = "/lieutenant/lieutenants"


def abort(fleet: Fleet, name: str) -> None:
    assert fleet.api.post(f"{LIEUTENANTS}/{name}/abort").json() == {"aborted": True}


def test_a_silent_model_is_noticed_and_named(fleet: Fleet, settings: Any) -> None:
    settings.STALL_NOTICE_SECONDS = 1
    fleet.create("ada", stallLimitSeconds=0)
    fleet.send("ada", "SILENT")
    until(lambda: fleet.get("ada").get("waitingFor") == "the model")
    until(lambda: fleet.get("ada")["stalled"])
    assert fleet.get("ada")["status"] == "working"
    abort(fleet, "ada")
    fleet.wait("ada", "idle")
    assert not fleet.get("ada")["stalled"]
    assert "waitingFor" not in fleet.get("ada")


def test_a_wait_of_known_length_is_named_and_no_silence(fleet: Fleet) -> None:
    fleet.create("ada", stallLimitSeconds=1)
    fleet.send("ada", "RETRY 1 limited")
    facts = until(lambda: (found := fleet.get("ada")).get("waitingKind") == "quota" and found)
    assert facts["waitingFor"] == "the quota or rate limit of its model"
    left = datetime.fromisoformat(facts["waitingUntil"]) - timezone.now()
    assert timedelta(0) < left <= timedelta(seconds=1.5)
    fleet.wait("ada", "idle")
    assert Answer.objects.get().outcome == Outcome.COMPLETED
    assert "waitingUntil" not in fleet.get("ada")


def test_the_watchdog_breaks_a_silent_answer_off(fleet: Fleet) -> None:
    fleet.create("ada", stallLimitSeconds=1)
    fleet.send("ada", "SILENT")
    fleet.wait("ada", "working")
    fleet.wait("ada", "idle", 8)
    assert Answer.objects.get().outcome == Outcome.ABORTED
    assert fleet.ask("ada", "hello") == "echo: hello"


def test_one_that_talks_is_not_stalled(fleet: Fleet) -> None:
    fleet.create("ada", stallLimitSeconds=1)
    assert fleet.ask("ada", "TOKENS 30 10").endswith("w29")
    assert Answer.objects.get().outcome == Outcome.COMPLETED


@pytest.mark.rotated
def test_an_agent_that_does_not_even_abort_is_ended(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "ABORT_SECONDS", 0.5)
    fleet.create("ada", stallLimitSeconds=1)
    fleet.send("ada", "SLOW 60 " + "word " * 600)
    until(lambda: fleet.get("ada")["lastOutput"])
    pid = fleet.process("ada").handle["agent_pid"]
    os.kill(pid, signal.SIGSTOP)
    row = fleet.wait("ada", "error", 10)
    assert "waiting for the model to finish its answer; an abort did not help" in row.error
    until(lambda: fleet.row("ada").live_process() is None)
    assert not os.path.exists(f"/proc/{pid}")
    assert Answer.objects.get().text.startswith("word")
    fleet.api.post(f"{LIEUTENANTS}/ada/restart")
    fleet.wait("ada", "idle")


@pytest.mark.rotated
def test_the_restart_policy_brings_back_what_the_watchdog_ended(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "ABORT_SECONDS", 0.5)
    fleet.create("ada", stallLimitSeconds=1, restartPolicy="on-failure")
    fleet.ask("ada", "before")
    fleet.send("ada", "SLOW 60 " + "word " * 600)
    until(lambda: fleet.get("ada")["lastOutput"])
    first = fleet.process("ada")
    os.kill(first.handle["agent_pid"], signal.SIGSTOP)

    until(lambda: fleet.row("ada").moves.filter(new="error").exists(), 20)
    fleet.wait("ada", "idle")

    assert fleet.process("ada").pk != first.pk
    assert "before" in fleet.ask("ada", "RECALL")


def test_nothing_is_left_of_a_paused_one_whose_keeper_was_killed(fleet: Fleet) -> None:
    fleet.create("ada")
    child = int(fleet.ask("ada", "CHILD").split()[-1])
    handle = fleet.process("ada").handle
    os.kill(handle["keeper_pid"], signal.SIGSTOP)
    fleet.api.post(f"{LIEUTENANTS}/ada/pause")
    os.kill(handle["keeper_pid"], signal.SIGKILL)
    until(lambda: fleet.row("ada").live_process() is None)
    until(lambda: not os.path.exists(f"/proc/{child}"))
    until(lambda: not os.path.exists(f"/proc/{handle['agent_pid']}"))
    assert fleet.row("ada").status == "paused"


def test_a_start_without_a_word_is_given_up(
    fleet: Fleet, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.START_SECONDS = 1
    settings.AGENT_ENV = [*settings.AGENT_ENV, "STANDIN_MODE"]
    monkeypatch.setenv("STANDIN_MODE", "mute")
    fleet.create("ada", ready=False)
    row = fleet.wait("ada", "error", 8)
    assert row.error == "The agent did not answer for 1 s after its start."
    until(lambda: fleet.row("ada").live_process() is None)
    assert Process.objects.get().ended_at is not None


def has_context_usage(fleet: Fleet, name: str) -> bool:
    """Return whether the agent's reply about its context, its last output, is recorded."""
    process = fleet.row(name).live_process()
    return process is not None and process.state.get("context_changed") is False


def test_the_idle_limit_pauses(fleet: Fleet) -> None:
    fleet.create("ada", idleLimitMinutes=1)
    fleet.create("bea")
    assert fleet.ask("ada", "hello") == "echo: hello"
    until(lambda: has_context_usage(fleet, "ada"))
    past = timezone.now() - timedelta(minutes=2)
    Lieutenant.objects.update(status_since=past, last_activity_at=past)
    row = fleet.wait("ada", "paused")
    assert row.moves.filter(reason="idle for 1 minutes", new="paused").exists()
    until(lambda: fleet.row("ada").live_process() is None)
    assert fleet.row("bea").status == "idle"


def test_a_dialog_is_dismissed_at_once_with_a_limit_of_zero(fleet: Fleet) -> None:
    fleet.create("ada", dialogLimitSeconds=0)
    assert fleet.ask("ada", "DIALOG remove all?") == "declined"
    (notice,) = fleet.texts("ada", "notice")
    assert "remove all?" in notice


def test_an_abort_ends_the_wait_for_a_person(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.send("ada", "DIALOG remove all?")
    until(lambda: Question.objects.open().first())
    abort(fleet, "ada")
    fleet.wait("ada", "idle")
    assert Question.objects.get().state == QuestionState.WITHDRAWN
    assert fleet.ask("ada", "hello") == "echo: hello"


def test_an_abort_keeps_the_half_and_withdraws_what_waits(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.send("ada", "SLOW 60 " + "word " * 600)
    until(lambda: fleet.get("ada")["lastOutput"])
    late = fleet.send("ada", "late")
    until(lambda: Message.objects.filter(state=MessageState.ACCEPTED).count() == 1)
    assert Message.objects.get(pk=late.pk).state == MessageState.QUEUED
    abort(fleet, "ada")
    fleet.wait("ada", "idle")
    late.refresh_from_db()
    assert late.state == MessageState.REJECTED
    assert late.evidence == {"note": "withdrawn by an abort before the agent began with it"}
    assert "The abort withdrew 1 queued message." in fleet.texts("ada", "notice")
    answer = Answer.objects.get()
    assert answer.outcome == Outcome.ABORTED
    assert answer.text.startswith("word")
    assert fleet.ask("ada", "hello") == "echo: hello"
    assert fleet.api.post(f"{LIEUTENANTS}/ada/abort").status_code == 400


@pytest.mark.rotated
def test_an_old_agent_that_keeps_its_queue_loses_it_by_a_restart(
    fleet: Fleet, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.AGENT_ENV = [*settings.AGENT_ENV, "STANDIN_MODE"]
    monkeypatch.setenv("STANDIN_MODE", "old")
    fleet.create("ada")
    fleet.ask("ada", "my number is 4711")
    fleet.send("ada", "SLOW 60 " + "word " * 600)
    until(lambda: fleet.get("ada")["lastOutput"])
    late = fleet.send("ada", "late", mode="steer")
    until(lambda: Message.objects.filter(state=MessageState.ACCEPTED).count() == 3)
    abort(fleet, "ada")
    until(lambda: Process.objects.count() == 2)
    fleet.wait("ada", "idle")
    late.refresh_from_db()
    assert late.state == MessageState.REJECTED
    assert "my number is 4711" in fleet.ask("ada", "RECALL")
    assert "echo: late" not in fleet.texts("ada")


def test_an_abort_of_what_was_not_yet_sent_withdraws_it(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.stop_follower()
    message = fleet.send("ada", "never")
    abort(fleet, "ada")
    message.refresh_from_db()
    assert message.state == MessageState.REJECTED
    fleet.restart_follower()
    fleet.wait("ada", "idle")
    assert fleet.texts("ada") == []


def test_those_that_wait_for_a_start_follow_each_other_at_once(
    fleet: Fleet, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.STARTS_AT_ONCE = 1
    drop_tasks(monkeypatch, "lieutenants.settle")
    monkeypatch.setattr(watchdog, "RECONCILE_SECONDS", 1000.0)
    names = [f"l{number}" for number in range(5)]
    for name in names:
        fleet.create(name, ready=False)
    for name in names:
        fleet.wait(name, "idle", 10)
    starts = list(Process.objects.order_by("started_at"))
    for earlier, later in itertools.pairwise(starts):
        assert earlier.ready_at
        assert earlier.ready_at <= later.started_at


def test_the_follower_gives_signs_of_life(fleet: Fleet) -> None:
    latest = until(lambda: LifeSign.latest("follower"))
    assert timezone.now() - latest < timedelta(seconds=10)
