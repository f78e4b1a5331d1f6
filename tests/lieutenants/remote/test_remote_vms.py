"""Lieutenants on VMs of a provider: the emulated platform, with real machines behind it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bootloader.inventory import machines
from bootloader.models import Machine
from bootloader.providers.base import MachineState, Spec
from bootloader.providers.vers import http
from bootloader.providers.vers.provider import Vers
from lieutenants.models import Lieutenant
from lieutenants.supervision.transports.ssh.transport import links
from tests.conftest import Fleet
from tests.emulator.handle import Emulator
from tests.waiting import until
from vmtree.models import Node

vers = Vers()


@pytest.fixture
def vm(fleet: Fleet, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A running VM that is in the tree."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.02)
    made = vers.create(Spec(name="anna", vcpus=1, memory_mib=512, disk_mib=1024))
    until(lambda: vers.state(made.id).state is MachineState.RUNNING)
    machine = machines.record("vers", made, name="anna")
    machines.import_machine(machine, by="tests")
    machine.refresh_from_db()
    yield machine
    for row in Lieutenant.objects.active():
        fleet.api.delete(f"/lieutenant/lieutenants/{row.name}?wait=0")
    until(lambda: not Lieutenant.objects.filter(has_remote_files=True).exists(), 30)
    fleet.stop_follower()
    links.close_all()
    fleet.restart_follower()


def create(fleet: Fleet, vm: Machine, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"agent": "command", "command": ["sh", "-c", "cat /etc/vm_id; cat"]}
    return fleet.create("far", local=False, vmId=vm.vm_id, **body, **fields)


def test_lieutenant_runs_on_the_vm_below_its_node(fleet: Fleet, vm: Machine) -> None:
    made = create(fleet, vm)
    assert (made["vmId"], made["isLocal"], made["host"]) == (vm.vm_id, False, "anna")
    node = Node.objects.get(vm_id=made["id"])
    assert node.parent is not None
    assert node.parent.vm_id == vm.vm_id
    answer = fleet.ask("far", "hello")
    assert answer.startswith(vm.machine_id)
    assert answer.endswith("hello")


def test_paused_vm_is_woken_for_its_lieutenant(fleet: Fleet, vm: Machine) -> None:
    create(fleet, vm)
    path = "/lieutenant/lieutenants/far"
    assert fleet.api.post(f"{path}/pause").status_code == 200
    until(lambda: fleet.row("far").live_process() is None)
    machines.pause(vm)
    assert fleet.api.post(f"{path}/resume").status_code == 200
    fleet.wait("far", "idle", 60)
    assert fleet.ask("far", "again").endswith("again")
    steps = fleet.get("far")["startSteps"]
    assert steps[0]["note"] == "it was paused, and wakes up"


def test_deleted_vm_ends_its_lieutenant(fleet: Fleet, vm: Machine, emulator: Emulator) -> None:
    create(fleet, vm)
    vers.delete(vm.machine_id)
    machines.mark_gone(vm, "deleted by a test")
    row = fleet.wait("far", "error", 60)
    assert "There is no machine of a provider" in row.error
    assert fleet.api.delete("/lieutenant/lieutenants/far").status_code == 200
