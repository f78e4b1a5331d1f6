"""Lieutenants on VMs of a provider: the emulated platform, with real machines behind it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bootloader.inventory import machines
from bootloader.models import Machine
from lieutenants.models import Lieutenant, MadeVM, Process
from lieutenants.supervision import made_vms
from lieutenants.vm_lookup import used_vms
from tests.lieutenants.remote.platform import Platform, platform, vers, vm
from tests.waiting import until
from vmtree.models import Category, Node

__all__ = ["platform", "vm"]

PATH = "/lieutenant/lieutenants/far"


# -- on a VM that is there -------------------------------------------------------------------


def test_lieutenant_runs_on_the_vm_below_its_node(platform: Platform, vm: Machine) -> None:
    made = platform.create("far", vmId=vm.vm_id)
    assert (made["vmId"], made["isLocal"], made["host"]) == (vm.vm_id, False, "anna")
    node = Node.objects.get(vm_id=made["id"])
    assert node.parent is not None
    assert node.parent.vm_id == vm.vm_id
    answer = platform.fleet.ask("far", "hello")
    assert answer.startswith(vm.machine_id)
    assert answer.endswith("hello")


def test_pause_freezes_the_vm_and_resume_goes_on_with_the_same_agent(
    platform: Platform, vm: Machine
) -> None:
    platform.create("far", vmId=vm.vm_id)
    process = platform.fleet.process("far")
    assert platform.fleet.api.post(f"{PATH}/pause").status_code == 200
    until(lambda: platform.state(vm.machine_id) == "paused")
    assert platform.fleet.row("far").live_process() is None
    paused = platform.fleet.api.post("/lieutenant/lieutenants/discover").json()
    assert paused["results"] == ["far: paused (anna)"]

    assert platform.fleet.api.post(f"{PATH}/resume").status_code == 200
    platform.fleet.wait("far", "idle", 60)
    assert platform.state(vm.machine_id) == "running"
    assert platform.fleet.process("far").handle == process.handle
    assert platform.fleet.ask("far", "again").endswith("again")
    steps = platform.fleet.get("far")["startSteps"]
    assert steps[0]["note"] == "it was paused, and wakes up"
    assert steps[3]["note"] == "the same one is there"


@pytest.mark.rotated
def test_restart_of_a_frozen_agent_starts_another_one(platform: Platform, vm: Machine) -> None:
    platform.create("far", vmId=vm.vm_id)
    process = platform.fleet.process("far")
    assert platform.fleet.api.post(f"{PATH}/pause").status_code == 200
    until(lambda: platform.state(vm.machine_id) == "paused")
    assert platform.fleet.api.post(f"{PATH}/restart").status_code == 200
    platform.fleet.wait("far", "idle", 60)
    assert platform.fleet.process("far").pk != process.pk
    assert Process.objects.get(pk=process.pk).ended_at
    assert platform.fleet.ask("far", "again").endswith("again")


def test_vm_with_other_lieutenants_goes_on_when_one_is_paused(
    platform: Platform, vm: Machine
) -> None:
    platform.create("far", vmId=vm.vm_id)
    platform.create("near", vmId=vm.vm_id)
    assert platform.fleet.api.post(f"{PATH}/pause").status_code == 200
    until(lambda: platform.fleet.row("far").live_process() is None)
    assert platform.fleet.row("far").frozen_process() is None
    assert platform.state(vm.machine_id) == "running"
    assert platform.fleet.ask("near", "hello").endswith("hello")


def test_vm_of_the_infrastructure_is_not_paused(platform: Platform, vm: Machine) -> None:
    Node.objects.filter(vm_id=vm.vm_id).update(category=Category.INFRA_VM)
    platform.create("far", vmId=vm.vm_id)
    assert platform.fleet.api.post(f"{PATH}/pause").status_code == 200
    until(lambda: platform.fleet.row("far").live_process() is None)
    assert platform.fleet.row("far").frozen_process() is None
    assert platform.state(vm.machine_id) == "running"


@pytest.mark.rotated
def test_frozen_agent_is_ended_when_its_lieutenant_is_destroyed(
    platform: Platform, vm: Machine
) -> None:
    platform.create("far", vmId=vm.vm_id)
    assert platform.fleet.api.post(f"{PATH}/pause").status_code == 200
    until(lambda: platform.state(vm.machine_id) == "paused")
    assert platform.fleet.api.delete(PATH).status_code == 200
    until(lambda: not Lieutenant.objects.with_leftovers().exists(), 60)
    assert not Process.objects.live().exists()
    until(lambda: platform.state(vm.machine_id) == "paused")
    platform.create("near", vmId=vm.vm_id, command=["ls", "/root/.reef-agents/lieutenants"])
    assert platform.fleet.ask("near", "x").strip() == platform.fleet.row("near").pk


@pytest.mark.rotated
def test_deleted_vm_ends_its_lieutenant(platform: Platform, vm: Machine) -> None:
    platform.create("far", vmId=vm.vm_id)
    vers.delete(vm.machine_id)
    machines.mark_gone(vm, "deleted by a test")
    row = platform.fleet.wait("far", "error", 60)
    assert "There is no machine of a provider" in row.error
    assert platform.fleet.api.delete("/lieutenant/lieutenants/far").status_code == 200


# -- on a VM that is made for it -------------------------------------------------------------


def test_commit_is_restored_without_the_agents_of_its_parent(
    platform: Platform, vm: Machine
) -> None:
    platform.create("old", vmId=vm.vm_id)
    assert platform.fleet.ask("old", "hello").endswith("hello")
    commit = vers.commit(vm.machine_id, "golden")
    made = platform.create("far", commitId=commit, ready=False)
    assert made["status"] == "starting"
    platform.fleet.wait("far", "idle", 90)
    row = platform.fleet.row("far")
    machine = Machine.objects.get(vm_id=row.on_vm)
    assert machine.machine_id != vm.machine_id
    answer = platform.fleet.ask("far", "x")
    assert answer.startswith(machine.machine_id)
    assert platform.fleet.ask("old", "hello").endswith("hello")

    shown = platform.fleet.get("far")
    names = [each["name"] for each in shown["startSteps"]]
    assert names == [
        *("provision-resolve", "provision-create", "provision-ssh", "provision-identity"),
        *("vm", "ssh", "identity", "keeper", "inherited", "agent", "ready"),
    ]
    inherited = shown["startSteps"][8]
    assert inherited["note"].startswith("1 inherited agents")
    node = Node.objects.get(vm_id=row.pk)
    assert node.parent is not None
    assert node.parent.vm_id == row.on_vm

    assert platform.fleet.api.delete(PATH).status_code == 200
    until(lambda: not Lieutenant.objects.with_leftovers().exists(), 60)
    assert platform.state(machine.machine_id) == "gone"
    assert platform.state(vm.machine_id) == "running"
    gone = Node.objects.filter(vm_id__in=[row.pk, machine.vm_id])
    assert not gone.active().exists()
    assert gone.count() == 2


@pytest.mark.rotated
@pytest.mark.parametrize("policy", ["delete", "keep"])
def test_vm_of_a_failed_start_is_deleted_or_kept(
    platform: Platform, vm: Machine, policy: str
) -> None:
    commit = vers.commit(vm.machine_id, "golden")
    platform.create("far", commitId=commit, onFailure=policy, command=["no-such-prog"], ready=False)
    assert "no program 'no-such-prog'" in platform.fleet.wait("far", "error", 60).error
    machine = MadeVM.objects.get().provisioning.machine
    assert machine is not None
    if policy == "delete":
        until(lambda: platform.state(machine.machine_id) == "gone", 30)
        until(lambda: not platform.fleet.row("far").on_vm)
        # The next start makes another VM.
        assert platform.fleet.api.post(f"{PATH}/restart").status_code == 200
        until(lambda: MadeVM.objects.get().provisioning.machine not in (None, machine), 60)
        platform.fleet.wait("far", "error", 60)
    else:
        assert platform.state(machine.machine_id) == "running"
    assert platform.fleet.api.delete(PATH).status_code == 200
    until(lambda: not Lieutenant.objects.with_leftovers().exists(), 60)
    assert [each["vm_id"] for each in platform.emulator.vms()] == [vm.machine_id]


@pytest.mark.rotated
def test_unknown_commit_fails_with_the_reason(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_vms, "AGAIN", timedelta(0))
    platform.create("far", commitId="11111111-2222-4333-8444-555555555555", ready=False)
    row = platform.fleet.wait("far", "error", 60)
    assert row.error.startswith("The VM could not be made: create the VM: ")
    steps = platform.fleet.get("far")["startSteps"]
    assert steps[-1]["name"] == "provision-create"
    assert steps[-1]["problem"]
    assert platform.fleet.api.delete(PATH).status_code == 200
    until(lambda: not Lieutenant.objects.with_leftovers().exists(), 60)
    assert MadeVM.objects.get().provisioning.state == "cancelled"


def test_destroyed_while_its_vm_is_made(platform: Platform, vm: Machine) -> None:
    commit = vers.commit(vm.machine_id, "golden")
    platform.create("far", commitId=commit, ready=False)
    assert platform.fleet.api.delete(PATH).status_code == 200
    until(lambda: not Lieutenant.objects.with_leftovers().exists(), 60)
    assert [each["vm_id"] for each in platform.emulator.vms()] == [vm.machine_id]
    assert not Process.objects.exists()


def test_vm_that_runs_a_lieutenant_serves_something(platform: Platform, vm: Machine) -> None:
    assert list(used_vms([vm.vm_id])) == []
    platform.create("far", vmId=vm.vm_id)
    assert list(used_vms([vm.vm_id, "other"])) == [vm.vm_id]


def test_way_to_a_vm_is_tested_through_its_gateway(platform: Platform, vm: Machine) -> None:
    answer = platform.fleet.api.post("/bootloader/machines/test", {"vmId": vm.vm_id})
    found = answer.json()
    names = [step["name"] for step in found["steps"]]
    assert names[:6] == ["address", "tcp", "tls", "banner", "host key", "login"], found
    assert names[6:9] == ["shell", "python", "disk"]
    assert not any(step["problem"] for step in found["steps"][:9])
