"""Handles after a reboot, unreachable keepers, starts whose reply is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from lieutenants.exceptions import TransportError
from lieutenants.models import Process
from lieutenants.states import Status
from lieutenants.supervision import runtime, starts
from lieutenants.supervision.transports import get_transport, local
from lieutenants.supervision.transports.base import Launch
from tests.conftest import Fleet
from tests.waiting import until

LIEUTENANTS = "/lieutenant/lieutenants"


@pytest.fixture
def stranger() -> Iterator[dict[str, Any]]:
    """Start a process that is not an agent; yield it as a keeper's handle."""
    child = subprocess.Popen(["sleep", "600"])
    try:
        yield {"keeper_pid": child.pid, "keeper_started": _ticks(child.pid)}
        assert child.poll() is None, "it was signalled"
    finally:
        child.kill()
        child.wait()


def _ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _kill(fleet: Fleet, name: str) -> Process:
    """Kill keeper and agent while no follower runs."""
    process = fleet.process(name)
    fleet.stop_follower()
    for who in ("keeper_pid", "agent_pid"):
        os.kill(process.handle[who], signal.SIGKILL)
    until(lambda: not get_transport("local").alive(process.handle))
    return process


@pytest.mark.parametrize("boot", ["this one", "another one", "not recorded"])
def test_reused_pid_is_not_a_keeper(fleet: Fleet, stranger: dict[str, Any], boot: str) -> None:
    fleet.create("ada")
    process = _kill(fleet, "ada")
    boots = {"this one": local.boot_id(), "another one": "b00t", "not recorded": None}
    handle = {**process.handle, **stranger, "boot_id": boots[boot]}
    Process.objects.filter(pk=process.pk).update(handle=handle)
    fleet.restart_follower()
    until(lambda: Process.objects.get(pk=process.pk).ended_at)
    assert "ended while reef was away" in Process.objects.get(pk=process.pk).end_reason
    fleet.wait("ada", "idle")
    assert fleet.ask("ada", "hello") == "echo: hello"
    for verb in ("abort", "pause"):
        assert fleet.api.post(f"{LIEUTENANTS}/ada/{verb}", {"force": True}).status_code < 500
    assert fleet.api.delete(f"{LIEUTENANTS}/ada").status_code == 200


def test_different_boot_id_means_gone() -> None:
    me = {"keeper_pid": os.getpid(), "keeper_started": _ticks(os.getpid())}
    alive = get_transport("local").alive
    assert alive({**me, "boot_id": local.boot_id()})
    assert alive(me), "a handle of an older reef has none"
    assert not alive({**me, "boot_id": "3b241101-e2bb-4255-8caf-4136c566a962"})


def test_handle_contains_the_boot_id(fleet: Fleet) -> None:
    fleet.create("ada")
    process = fleet.process("ada")
    assert process.handle["boot_id"] == local.boot_id()
    assert get_transport("local").find(process.directory) == process.handle


# -- out of reach


def _elsewhere(process: Process) -> Path:
    return django_settings.LIEUTENANTS_DIR.parent / f"moved-{process.pk}"


def test_removed_socket_is_bound_again(fleet: Fleet) -> None:
    fleet.create("ada")
    folder = Path(fleet.process("ada").directory)
    for name in ("control.sock", "control.key", "keeper.json"):
        before = (folder / name).read_bytes() if name != "control.sock" else b""
        (folder / name).unlink()
        until((folder / name).exists)
        if before:
            assert (folder / name).read_bytes() == before
    assert fleet.ask("ada", "hello") == "echo: hello"
    assert not fleet.row("ada").trouble


@pytest.mark.rotated
def test_unresponsive_keeper_is_reported_and_ended_by_a_restart(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "END_AGENT_SECONDS", 1.0)
    fleet.create("ada")
    process = fleet.process("ada")
    Path(process.directory).rename(_elsewhere(process))
    trouble = until(lambda: fleet.get("ada").get("trouble"), 10)
    assert trouble.startswith("Its supervisor does not answer since ")
    assert trouble.endswith(" UTC: the folder of its run is gone.")
    assert fleet.api.post(f"{LIEUTENANTS}/ada/restart").status_code == 200
    until(lambda: Process.objects.get(pk=process.pk).ended_at, 30)
    until(lambda: not get_transport("local").alive(process.handle))
    fleet.wait("ada", "idle")
    assert not fleet.row("ada").trouble
    assert fleet.ask("ada", "hello") == "echo: hello"


def test_suspended_keeper_is_reported_until_it_continues(fleet: Fleet) -> None:
    fleet.create("ada")
    keeper = fleet.process("ada").handle["keeper_pid"]
    os.kill(keeper, signal.SIGSTOP)
    try:
        trouble = until(lambda: fleet.get("ada").get("trouble"), 10)
        assert trouble.endswith(": its process is suspended.")
    finally:
        os.kill(keeper, signal.SIGCONT)
    until(lambda: not fleet.get("ada").get("trouble"), 10)
    assert fleet.ask("ada", "hello") == "echo: hello"


@pytest.mark.rotated
def test_unreachable_working_lieutenant_fails_at_its_limit(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "END_AGENT_SECONDS", 1.0)
    fleet.create("ada", stallLimitSeconds=5)
    process = fleet.process("ada")
    Path(process.directory).rename(_elsewhere(process))
    fleet.send("ada", "hello")
    fleet.wait("ada", "error", 20)
    assert "Its supervisor did not answer for " in fleet.row("ada").error
    until(lambda: not get_transport("local").alive(process.handle), 30)


# -- starts whose answer is lost


def test_keeper_of_a_failed_start_is_adopted(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    really_start = local.LocalTransport.start

    def start(self: local.LocalTransport, launch: Any) -> Any:
        really_start(self, launch)
        raise TransportError("The supervisor did not start: TimeoutExpired")

    monkeypatch.setattr(local.LocalTransport, "start", start)
    for name in ("ada", "bea"):
        fleet.create(name)
        assert fleet.ask(name, "hello") == "echo: hello"
    assert Process.objects.count() == Process.objects.live().count() == 2
    assert "destroyed" in str(fleet.api.post(f"{LIEUTENANTS}/destroy-all").json())
    until(lambda: not Process.objects.live().exists(), 20)


def test_abandoned_start_leaves_no_agent(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_START_SECONDS", 0.01)
    names = [f"l{number}" for number in range(4)]
    for name in names:
        fleet.create(name, ready=False)
    until(lambda: all(fleet.row(name).status in ("idle", "error") for name in names), 60)
    for name in names:
        row = fleet.row(name)
        if row.status == Status.ERROR:
            assert "could not be started" in row.error
    rows = {process.pk: process for process in Process.objects.all()}
    mine = set(Process.objects.values_list("lieutenant_id", flat=True))
    for note in django_settings.LIEUTENANTS_DIR.glob("*/runs/*"):
        if note.parent.parent.name not in mine:
            continue
        handle = get_transport("local").find(str(note))
        if handle and get_transport("local").alive(handle, str(note)):
            assert rows[note.name].ended_at is None, "an agent without a row"


def test_withdrawn_run_never_comes_up(fleet: Fleet, tmp_path: Path) -> None:
    fleet.create("ada")
    folder = tmp_path / "ada" / "runs" / "late"
    assert get_transport("local").withdraw(str(folder)) is None
    assert get_transport("local").find(str(folder)) is None
    spec = Launch(
        run="late", dir=str(folder), argv=["/bin/sleep", "600"], env={}, cwd="/",
        lock=str(tmp_path / "lock"), heal=[], tag="", hello=[],
    )  # fmt: skip
    with pytest.raises(TransportError, match="started before and is over"):
        get_transport("local").start(spec)


def test_start_without_a_reply_is_resolved(fleet: Fleet) -> None:
    fleet.create("ada")
    fleet.stop_follower()
    process = fleet.process("ada")
    Process.objects.filter(pk=process.pk).update(handle={}, started_at=timezone.now())
    process.refresh_from_db()
    with contextlib.suppress(AssertionError):
        starts.resolve_lost_start(process, "its answer was lost")
    process.refresh_from_db()
    assert process.ended_at is None
    assert process.handle["agent_pid"]
    fleet.restart_follower()
    assert fleet.ask("ada", "hello") == "echo: hello"
