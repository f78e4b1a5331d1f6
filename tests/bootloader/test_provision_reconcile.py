"""Provider, tree and registry are compared; what is found is proposed, done when one says so."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from bootloader import reconcile
from bootloader.models import Finding, Machine, Provisioning
from bootloader.provisioning import rings
from bootloader.states import FindingState, Proposal, State
from registry import services as registry
from registry.models import VM
from registry.serializers import Registration
from tests.conftest import Api
from tests.emulator.fixture import emulator, emulator_of_the_run
from tests.emulator.handle import Emulator
from vmtree import dates
from vmtree import services as tree
from vmtree.models import Node

__all__ = ["emulator", "emulator_of_the_run"]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def platform(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Config points at the emulator, and nothing gets time to find its place."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(reconcile, "PATIENCE", timedelta(0))
    monkeypatch.setattr(rings, "tell", lambda _key: None)
    return emulator


def made_by_somebody(emulator: Emulator) -> str:
    """A VM of which reef knows nothing."""
    answer = httpx.post(
        f"{emulator.url}/api/v1/vm/new_root?wait_boot=true",
        json={"vm_config": {}},
        headers={"authorization": f"Bearer {emulator.key}"},
        timeout=60,
    )
    return str(answer.json()["vm_id"])


def a_member(emulator: Emulator) -> str:
    """A VM with its places in tree and registry."""
    vm_id = made_by_somebody(emulator)
    tree.create(tree.NewNode("one", "agent_vm", vm_id), by="tests")
    registry.register(Registration(vm_id, "one", "worker", "a", "tests"))
    reconcile.look_at("vers")
    return vm_id


def remove(emulator: Emulator, vm_id: str) -> None:
    """Somebody deletes it at the platform."""
    headers = {"authorization": f"Bearer {emulator.key}"}
    httpx.delete(f"{emulator.url}/api/v1/vm/{vm_id}", headers=headers, timeout=60)


def the_finding(api: Api) -> dict[str, Any]:
    found = api.get("/bootloader/findings").json()
    assert found["count"] == 1, found
    one: dict[str, Any] = found["findings"][0]
    return one


def test_members_are_no_finding(api: Api, emulator: Emulator) -> None:
    vm_id = a_member(emulator)
    assert reconcile.look() == 0
    assert Machine.objects.get().vm_id == vm_id


def test_an_unknown_vm_is_taken_in(api: Api, emulator: Emulator) -> None:
    vm_id = made_by_somebody(emulator)
    reconcile.look()
    found = the_finding(api)
    assert (found["kind"], found["machineId"]) == ("unknown", vm_id)
    assert found["proposal"] == "adopt"
    assert Node.objects.count() == 0

    answer = api.post(f"/bootloader/findings/{found['id']}/act")

    assert answer.json()["finding"]["state"] == "done"
    assert Node.objects.get().vm_id == vm_id


def test_an_unknown_vm_is_deleted_if_one_says_so(api: Api, emulator: Emulator) -> None:
    made_by_somebody(emulator)
    reconcile.look()
    key = the_finding(api)["id"]
    answer = api.post(f"/bootloader/findings/{key}/act", {"action": "delete"})
    assert answer.status_code == 200, answer.content
    assert emulator.vms() == []
    assert api.post(f"/bootloader/findings/{key}/act").status_code == 409


def test_a_vm_that_a_provisioning_left_is_to_be_deleted(api: Api, emulator: Emulator) -> None:
    vm_id = made_by_somebody(emulator)
    machine = Machine.objects.create(provider="vers", machine_id=vm_id, vm_id=vm_id)
    Provisioning.objects.create(
        name="x", profile="full", provider="vers", actor="t", state=State.FAILED, machine=machine
    )
    reconcile.look()
    found = the_finding(api)
    assert found["proposal"] == "delete"
    assert "which failed" in found["text"]


def test_a_vanished_vm_is_buried(api: Api, emulator: Emulator) -> None:
    vm_id = a_member(emulator)
    remove(emulator, vm_id)
    reconcile.look()
    found = the_finding(api)
    assert (found["kind"], found["proposal"]) == ("vanished", "bury")
    assert Node.objects.living().count() == 1

    api.post(f"/bootloader/findings/{found['id']}/act")

    assert not Node.objects.living().exists()
    assert not VM.objects.exists()
    assert Machine.objects.get().is_gone
    assert reconcile.look() == 0


def test_a_list_that_lacks_one_for_a_moment_is_not_believed(api: Api, emulator: Emulator) -> None:
    vm_id = a_member(emulator)
    emulator.set(list_gap=3, list_gap_vm=vm_id)
    assert reconcile.look() == 0
    assert not Machine.objects.get().is_gone


def test_a_platform_that_is_away_finds_nothing(api: Api, emulator: Emulator) -> None:
    a_member(emulator)
    emulator.fail("*", status=503, times=100)
    assert reconcile.look() == 0
    assert not Machine.objects.get().is_gone


def test_what_costs_and_serves_nothing(api: Api, emulator: Emulator) -> None:
    vm_id = a_member(emulator)
    VM.objects.update(last_seen=dates.now() - timedelta(hours=2))
    reconcile.look()
    found = the_finding(api)
    assert (found["kind"], found["proposal"]) == ("useless", "delete")

    registry.keep_alive([vm_id])
    refused = api.post(f"/bootloader/findings/{found['id']}/act")
    assert refused.status_code == 409
    assert "was heard of since" in refused.json()["error"]
    assert reconcile.look() == 0
    assert Finding.objects.get().state == FindingState.SETTLED
    assert [vm["vm_id"] for vm in emulator.vms()] == [vm_id]


def test_what_is_dismissed_is_not_brought_up_again(api: Api, emulator: Emulator) -> None:
    vm_id = made_by_somebody(emulator)
    reconcile.look()
    api.post(f"/bootloader/findings/{the_finding(api)['id']}/dismiss")
    assert reconcile.look() == 0
    assert Finding.objects.count() == 1

    remove(emulator, vm_id)
    reconcile.look()
    assert Finding.objects.get().state == FindingState.SETTLED


def test_a_paused_member_that_still_runs(api: Api, emulator: Emulator) -> None:
    a_member(emulator)
    VM.objects.update(status="paused", late_after=None, silent_after=None)
    reconcile.look()
    found = the_finding(api)
    assert found["proposal"] == Proposal.PAUSE
    api.post(f"/bootloader/findings/{found['id']}/act")
    assert emulator.vms()[0]["state"] == "paused"
    assert reconcile.look() == 0


def test_vms_of_another_account_are_let_be(api: Api, emulator: Emulator) -> None:
    headers = {"authorization": f"Bearer {emulator.another_key()}"}
    url = f"{emulator.url}/api/v1/vm/new_root?wait_boot=true"
    httpx.post(url, json={"vm_config": {}}, headers=headers, timeout=60)
    assert reconcile.look() == 0
    assert not Machine.objects.exists()
