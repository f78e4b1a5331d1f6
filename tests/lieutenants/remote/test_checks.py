"""Checks of remote sessions: one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from lieutenants.exceptions import NotConnected, TransportError
from lieutenants.models import Lieutenant, Process
from lieutenants.sessions import inputs
from lieutenants.sessions.session import Session
from lieutenants.supervision import remote_work, runtime
from lieutenants.supervision.checks import lost_processes
from lieutenants.supervision.checks.background import Background
from lieutenants.supervision.discovery import verdicts
from lieutenants.supervision.discovery.machines import NamedPlace, Seen, SeenRun
from lieutenants.supervision.transports.ssh.places import place_of
from lieutenants.supervision.transports.ssh.transport import SshTransport
from lieutenants.supervision.watchdog import Watchdog
from tests.dispatching import drop_tasks
from tests.lieutenants.remote import rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> dict[str, Session]:
    """The open sessions of two lieutenants, by process."""
    drop_tasks(monkeypatch, "")
    monkeypatch.setattr(Background, "run", lambda *_: None)
    found = {}
    for name in ("first", "second"):
        process = rows.process(rows.lieutenant(name, vm=name), ready_at=timezone.now())
        found[process.pk] = Session.open(process)
    return found


def live() -> dict[str, Process]:
    return {row.pk: row for row in Process.objects.live().select_related("lieutenant")}


def test_failing_check_of_one_session_leaves_the_others(
    two: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two
    checked = []

    def check(_self: Watchdog, session: Session, *_: object) -> None:
        checked.append(session.process.pk)
        if session.process.pk == first:
            raise KeyError("only this one")

    monkeypatch.setattr(Watchdog, "_check_session", check)
    skipped: dict[str, float] = {}
    Watchdog(two, skipped).run_checks(live(), 0.0)
    assert sorted(checked) == [first, second]
    assert list(two) == [second]
    assert list(skipped) == [first]


def test_session_that_was_taken_over_does_not_keep_the_trouble_of_others_from_being_saved(
    two: dict[str, Session],
) -> None:
    first, second = two
    Process.objects.filter(pk=first).update(data_folder="other")
    Lieutenant.objects.filter(name="first").update(data_folder="other")
    checks = Watchdog(two)
    for session in list(two.values()):
        session.handle(inputs.TroubleFound("out of reach"))
        checks._reachability.changed.append(session)
    checks._save_reachability()
    assert list(two) == [second]
    troubles = dict(Lieutenant.objects.values_list("name", "trouble"))
    assert troubles == {"first": "", "second": "out of reach"}


def test_frozen_follower_does_not_fail_what_another_one_has(two: dict[str, Session]) -> None:
    first, _second = two
    session = two[first]
    Process.objects.update(data_folder="other")
    Lieutenant.objects.update(data_folder="other")
    checks = Watchdog(two)
    assert not checks._guarded(session, lambda: checks._fail_and_stop(session, "was silent"))
    process = Process.objects.get(pk=first)
    assert process.stop_asked_at is None
    assert Lieutenant.objects.get(name="first").status == "idle"


def test_lost_start_on_a_silent_vm_holds_up_no_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    long_ago = timezone.now() - 2 * lost_processes.LOST_START_AFTER
    process = rows.process(rows.lieutenant(status="destroyed"), handle={}, started_at=long_ago)
    submitted: list[tuple[str, Callable[[], object]]] = []
    holders: list[str] = []

    def withdraw(*_: object) -> None:
        holders.append(Lieutenant.objects.get().leased_by)
        raise NotConnected("no answer")

    monkeypatch.setattr(SshTransport, "withdraw", withdraw)
    monkeypatch.setattr(remote_work, "submit", lambda key, work: submitted.append((key, work)))
    lost = lost_processes.LostProcesses(Background())
    lost.check_start(process)
    ((key, resolve),) = submitted
    assert key != process.lieutenant_id, "that is the key of its deletion"
    resolve()
    assert holders[0]
    # Meanwhile the deletion can have the lieutenant's lease.
    lost.check_start(process)
    assert len(submitted) == 1
    assert Lieutenant.objects.get().leased_by == ""
    monkeypatch.setattr(lost_processes, "AGAIN_SECONDS", 0.0)
    resolve()
    lost.check_start(process)
    assert len(submitted) == 2


def test_machine_that_refuses_the_end_of_an_agent_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long_ago = timezone.now() - 2 * lost_processes.LOST_START_AFTER
    process = rows.process(rows.lieutenant(status="paused"), stop_asked_at=long_ago)
    asked = []

    def end(_self: SshTransport, *_: Any, **__: Any) -> None:
        asked.append(1)
        raise TransportError("no")

    monkeypatch.setattr(SshTransport, "end", end)
    runtime.halt(process, working=False)
    assert asked == [1]


def test_stop_by_a_worker_that_was_overtaken_changes_nothing() -> None:
    process = rows.process(rows.lieutenant(status="paused"))
    Process.objects.update(generation=1, data_folder="other")
    runtime.halt(process, working=False)
    assert Process.objects.get().stop_asked_at is None


def test_run_of_another_lieutenant_is_left_alone() -> None:
    run = rows.process(rows.lieutenant("owner"), ended_at=timezone.now())
    row = rows.lieutenant("thief", status="error")
    place = NamedPlace(place_of(row), "vm-1")
    seen = Seen(runs=(SeenRun(row.pk, run.pk, {"agent_pid": 8}),))
    said = verdicts.lines_of(place, seen)[row.pk]
    text = "its run is another lieutenant's, left alone (vm-1, pid 8)"
    assert said == f"thief: not ours — {text}"
    run.refresh_from_db()
    assert run.ended_at
    assert run.lieutenant.name == "owner"
    assert row.live_process() is None
