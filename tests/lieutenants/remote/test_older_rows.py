"""Rows of lieutenants that have taken over agents of an older server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from bootloader.models import SshHost
from lieutenants.agents.pi import attend
from lieutenants.models import Lieutenant
from lieutenants.supervision.discovery import verdicts
from lieutenants.supervision.discovery.machines import NamedPlace, Seen
from lieutenants.supervision.transports.ssh.older import OlderAgent
from lieutenants.supervision.transports.ssh.places import Place
from lieutenants.supervision.transports.ssh.relay import older, operations
from tests.lieutenants.remote import rows
from tests.waiting import until


def on_host() -> NamedPlace:
    host = SshHost.objects.create(name="far", address="192.0.2.1", user="u")
    return NamedPlace(Place(ssh_host=str(host.pk)), "far")


def on_vm() -> NamedPlace:
    rows.machine("vm-1")
    return NamedPlace(Place(vm_id="vm-1"), "far")


def look(place: NamedPlace) -> str:
    """Return the line about an agent that was seen there."""
    facts: dict[str, Any] = {
        "pid": 7,
        "started": 1,
        "workspace": "/w",
        "env": {"VERS_AGENT_NAME": "ada"},
    }
    seen = Seen(older=OlderAgent(folder="/tmp/pi-rpc", **facts))
    (line,) = verdicts.lines_of(place, seen).values()
    return line


@pytest.mark.django_db
@pytest.mark.parametrize("machine", [on_host, on_vm])
def test_agent_is_one_lieutenant_however_often_it_is_discovered(
    machine: Callable[[], NamedPlace],
) -> None:
    place = machine()
    assert look(place) == "ada: reattached (far, pid 7, recovered lieutenant)"
    row = Lieutenant.objects.get()
    # Its start has not reached the machine, so that the agent does not bear its mark.
    assert look(place) == "ada: reattached (far, pid 7)"
    Lieutenant.objects.update(status="error")
    assert look(place) == "ada: reattached (far, pid 7)"
    Lieutenant.objects.update(status="paused")
    assert look(place) == "ada: paused (far, pid 7)"
    assert Lieutenant.objects.get() == row


@pytest.mark.django_db
def test_agent_on_a_vm_that_is_being_deleted_gets_no_lieutenant() -> None:
    place = on_vm()
    made = rows.made_vm(rows.lieutenant("bob", status="destroyed", is_taken_over=False))
    type(made).objects.update(deleting_since=timezone.now())
    assert "is being deleted" in look(place)
    assert not Lieutenant.objects.active().exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("machine", [on_host, on_vm])
def test_discoveries_at_the_same_time_make_one_lieutenant(
    machine: Callable[[], NamedPlace],
) -> None:
    place = machine()
    later = rows.at_once(lambda: look(place), lambda: look(place))
    assert later == "ada: reattached (far, pid 7)"
    assert Lieutenant.objects.count() == 1


@pytest.mark.django_db
def test_agent_of_a_destroyed_lieutenant_is_not_brought_back_before_it_is_ended() -> None:
    place = on_vm()
    look(place)
    Lieutenant.objects.update(status="destroyed")
    assert look(place) == "ada: destroyed, not brought back (far, pid 7)"
    row = Lieutenant.objects.with_leftovers().get()
    assert not row.processes.exists()


# -- on the machine -----------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program as an older server runs its agent, and have the relay look there."""
    folder, home = tmp_path / "pi-rpc", tmp_path / "home"
    folder.mkdir(0o700)
    os.mkfifo(folder / "in")
    monkeypatch.setattr(older, "FOLDER", str(folder))
    monkeypatch.setattr(older, "keeper_file", lambda _: attend.__file__)
    monkeypatch.setattr(operations, "ROOT", str(home))
    monkeypatch.setattr(operations, "sweep", lambda *_: None)
    fifo = os.open(folder / "in", os.O_RDWR)
    with (
        (folder / "out").open("ab") as out,
        subprocess.Popen(["cat"], stdin=fifo, stdout=out) as made,
    ):
        os.close(fifo)
        until(lambda: older.find_older()["older"])
        yield made
        made.kill()


def owner() -> Any:
    found = older.find_older()["older"]
    return found and found["owner"]


def test_agent_is_marked_before_its_first_start(agent: subprocess.Popen[bytes]) -> None:
    found = older.find_older()["older"]
    request = {"op": "own", "lieutenant": "L1", "pid": agent.pid, "started": found["started"]}
    assert operations.perform({**request, "started": 1})["ok"] is False
    assert owner() is None
    assert operations.perform(request)["ok"]
    assert owner() == "L1"
    assert operations.perform({"op": "remove", "lieutenant": "L2", "unmarked": True})["ok"]
    assert owner() == "L1", "it is another one's"
    # Its start failed before it had a folder.
    assert operations.perform({"op": "remove", "lieutenant": "L1"})["ok"]
    assert older.find_older()["older"] is None


def test_agent_without_a_mark_is_ended_if_its_lieutenant_never_reached_it(
    agent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert operations.perform({"op": "remove", "lieutenant": "L1"})["ok"]
    assert agent.poll() is None
    (tmp_path / "home" / "programs").mkdir(parents=True)
    assert operations.perform({"op": "remove", "lieutenant": "L1", "unmarked": True})["ok"]
    assert agent.wait(5) is not None
    assert not (tmp_path / "pi-rpc").exists()
    assert not (tmp_path / "home").exists()


def test_files_stay_while_the_agent_cannot_be_ended(
    agent: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(older, "keeper_file", lambda _: str(tmp_path / "none" / "keeper.pyz"))
    folder = tmp_path / "home" / "lieutenants" / "L1"
    folder.mkdir(parents=True)
    answer = operations.perform({"op": "remove", "lieutenant": "L1", "unmarked": True})
    assert "still runs" in answer["error"]
    assert folder.exists()
    assert agent.poll() is None
