"""Discover: what runs on this host and is not followed is taken up again."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from lieutenants.models import Lieutenant, Process
from lieutenants.states import Status
from lieutenants.supervision.transports import get_transport
from tests.conftest import Fleet
from tests.waiting import until

DISCOVER = "/lieutenant/lieutenants/discover"


def discover(fleet: Fleet) -> list[str]:
    results: list[str] = fleet.api.post(DISCOVER).json()["results"]
    return results


def forget(fleet: Fleet, name: str, status: str) -> Process:
    """Let the rows say that the process has ended, while its keeper goes on."""
    process = fleet.process(name)
    fleet.stop_follower()
    Process.objects.filter(pk=process.pk).update(ended_at=timezone.now(), end_reason="lost")
    Lieutenant.objects.filter(name=name).update(status=status)
    return process


def test_nothing_to_discover(fleet: Fleet) -> None:
    assert discover(fleet) == ["No lieutenants found in registry"]


def test_what_is_followed_is_left_alone(fleet: Fleet) -> None:
    fleet.create("ada")
    assert discover(fleet) == ["ada: already tracked"]


@pytest.mark.parametrize("status", [Status.ERROR, Status.PAUSED, Status.IDLE])
def test_a_lost_one_is_followed_again_with_what_it_said_meanwhile(
    fleet: Fleet, status: str
) -> None:
    fleet.create("ada")
    fleet.ask("ada", "before")
    fleet.send("ada", "TOKENS 200 150")
    until(lambda: fleet.get("ada")["lastOutput"])
    process = forget(fleet, "ada", status)
    (line,) = discover(fleet)
    assert line == f"ada: discovered (local, pid {process.handle['agent_pid']})"
    fleet.restart_follower()
    fleet.wait("ada", "idle")
    assert fleet.texts("ada") == ["echo: before", " ".join(f"w{n}" for n in range(200))]
    assert fleet.process("ada").pk == process.pk
    assert fleet.ask("ada", "after") == "echo: after"
    assert Process.objects.count() == 1


def test_one_without_a_row_gets_one(fleet: Fleet) -> None:
    fleet.create("ada")
    process = forget(fleet, "ada", Status.ERROR)
    Process.objects.all().delete()
    assert "ada: discovered" in discover(fleet)[0]
    fleet.restart_follower()
    fleet.wait("ada", "idle")
    assert fleet.process("ada").pk == process.pk
    assert fleet.ask("ada", "after") == "echo: after"


def test_the_destroyed_are_not_brought_back(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.create("ada")
    process = forget(fleet, "ada", Status.DESTROYED)
    (line,) = discover(fleet)
    assert line.startswith("ada: destroyed, not brought back (local, pid ")
    fleet.restart_follower()
    assert not Process.objects.live().exists()
    end(process)


def test_a_stranger_is_left_alone(fleet: Fleet) -> None:
    made = fleet.create("ada")
    process = forget(fleet, "ada", Status.ERROR)
    Lieutenant.objects.all().delete()
    (line,) = discover(fleet)
    assert line.startswith(f"{made['id']}: no such lieutenant is known, left alone (local, pid ")
    end(process)


def test_two_that_discover_at_once_take_it_up_once(fleet: Fleet) -> None:
    fleet.create("ada")
    forget(fleet, "ada", Status.ERROR)
    lines = [*discover(fleet), *discover(fleet)]
    assert "discovered" in lines[0]
    assert lines[1] == "ada: already tracked"
    fleet.restart_follower()
    fleet.wait("ada", "idle")


def end(process: Process) -> None:
    """No row leads to this keeper any more, so the fleet would not end it."""
    transport: Any = get_transport(process.transport)
    transport.stop(process.directory, process.handle, None)
    until(lambda: not transport.alive(process.handle))
