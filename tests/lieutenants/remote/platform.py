"""VMs of the emulated platform for lieutenants: made, saved, and looked at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connections

from bootloader.inventory import machines
from bootloader.models import Machine
from bootloader.providers.base import MachineState, Spec
from bootloader.providers.vers import http
from bootloader.providers.vers.provider import Vers
from bootloader.provisioning import quota, runner
from lieutenants.models import Lieutenant
from lieutenants.supervision.transports.ssh.transport import links
from tests.conftest import CONVERGE_THREAD, Fleet
from tests.dispatching import intercept_tasks
from tests.emulator.handle import Emulator
from tests.waiting import until

COMMAND: dict[str, Any] = {"agent": "command", "command": ["sh", "-c", "cat /etc/vm_id; cat"]}
vers = Vers()


@dataclass
class Platform:
    """The emulated platform, as reef's provider."""

    fleet: Fleet
    emulator: Emulator

    def make(self, name: str) -> Machine:
        """Return a running VM that is in the tree."""
        made = vers.create(Spec(name=name, vcpus=1, memory_mib=512, disk_mib=1024))
        until(lambda: vers.state(made.id).state is MachineState.RUNNING)
        machine = machines.record("vers", made, name=name)
        machines.import_machine(machine, by="tests")
        machine.refresh_from_db()
        return machine

    def create(self, name: str, **fields: Any) -> dict[str, Any]:
        """Create a lieutenant of the agent `command`."""
        return self.fleet.create(name, **{"local": False, **COMMAND, **fields})

    def state(self, machine_id: str) -> str:
        """Return the state of a VM; "gone" without one."""
        vms = {vm["vm_id"]: str(vm["state"]) for vm in self.emulator.vms()}
        return vms.get(machine_id, "gone")


def provision_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the tasks of provisionings, as a worker does, but without a broker."""

    def begin(task: str, args: list[str], countdown: float) -> None:
        def run() -> None:
            try:
                if task == "bootloader.begin":
                    quota.start_queued()
                else:
                    runner.advance(*args)
            finally:
                connections.close_all()

        timer = threading.Timer(countdown, run)
        timer.name = CONVERGE_THREAD
        timer.daemon = True
        timer.start()

    intercept_tasks(monkeypatch, "bootloader.", begin)


@pytest.fixture
def platform(
    fleet: Fleet, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Platform]:
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(http, "_FIRST_PAUSE", 0.02)
    provision_in_threads(monkeypatch)
    yield Platform(fleet, emulator)
    for row in Lieutenant.objects.active():
        fleet.api.delete(f"/lieutenant/lieutenants/{row.name}?wait=0")
    until(lambda: not Lieutenant.objects.with_leftovers().exists(), 30)
    fleet.stop_follower()
    links.close_all()
    fleet.restart_follower()


@pytest.fixture
def vm(platform: Platform) -> Machine:
    """A running VM that is in the tree."""
    return platform.make("anna")
