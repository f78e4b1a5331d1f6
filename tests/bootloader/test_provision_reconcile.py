"""Provider, tree and registry are compared; what is found is proposed, done when one says so."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.test import Client

from bootloader.exceptions import ShellUnavailable
from bootloader.inventory import machines, reconcile
from bootloader.models import BootStep, Finding, Machine, Provisioning
from bootloader.providers.ssh import pool
from bootloader.provisioning import runner
from bootloader.states import FindingState, Proposal, State, StepName, StepState
from reef_site.accounts.signin_links import make_operator
from reef_site.common import clock
from registry import services as registry
from registry.models import VM, Watch
from registry.services import Registration
from tests.conftest import Api
from tests.dispatching import drop_tasks
from tests.emulator.fixture import emulator, emulator_of_the_run
from tests.emulator.handle import Emulator
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Node

__all__ = ["emulator", "emulator_of_the_run"]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def platform(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Configure the emulator, without grace period."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(reconcile, "GRACE_PERIOD", timedelta(0))
    return emulator


def create_unknown_vm(emulator: Emulator) -> str:
    """Create a VM that reef does not know."""
    answer = httpx.post(
        f"{emulator.url}/api/v1/vm/new_root?wait_boot=true",
        json={"vm_config": {}},
        headers={"authorization": f"Bearer {emulator.key}"},
        timeout=60,
    )
    return str(answer.json()["vm_id"])


def create_member(emulator: Emulator) -> str:
    """Create a VM that is in the tree and the registry."""
    vm_id = create_unknown_vm(emulator)
    tree.create(tree.NewNode("one", "agent_vm", vm_id), by="tests")
    registry.register(Registration(vm_id, "one", "worker", "a", "tests"))
    reconcile.compare_provider("vers")
    return vm_id


def delete_at_platform(emulator: Emulator, vm_id: str) -> None:
    """Delete a VM at the platform, without reef."""
    headers = {"authorization": f"Bearer {emulator.key}"}
    httpx.delete(f"{emulator.url}/api/v1/vm/{vm_id}", headers=headers, timeout=60)


def only_finding(api: Api) -> dict[str, Any]:
    found = api.get("/bootloader/findings").json()
    assert found["count"] == 1, found
    one: dict[str, Any] = found["findings"][0]
    return one


def test_known_vms_are_not_reported(api: Api, emulator: Emulator) -> None:
    vm_id = create_member(emulator)
    assert reconcile.compare_all() == 0
    assert Machine.objects.get().vm_id == vm_id


def test_unknown_vm_is_imported(api: Api, emulator: Emulator) -> None:
    vm_id = create_unknown_vm(emulator)
    reconcile.compare_all()
    found = only_finding(api)
    assert (found["kind"], found["machineId"]) == ("unknown", vm_id)
    assert found["proposal"] == "adopt"
    assert Node.objects.count() == 0

    answer = api.post(f"/bootloader/findings/{found['id']}/act")

    assert answer.json()["finding"]["state"] == "done"
    assert Node.objects.get().vm_id == vm_id


def test_unknown_vm_is_deleted_on_request(api: Api, emulator: Emulator) -> None:
    create_unknown_vm(emulator)
    reconcile.compare_all()
    key = only_finding(api)["id"]
    answer = api.post(f"/bootloader/findings/{key}/act", {"action": "delete"})
    assert answer.status_code == 200, answer.content
    assert emulator.vms() == []
    assert api.post(f"/bootloader/findings/{key}/act").status_code == 409


def test_vm_of_a_failed_provisioning_is_proposed_for_deletion(api: Api, emulator: Emulator) -> None:
    vm_id = create_unknown_vm(emulator)
    machine = Machine.objects.create(provider="vers", machine_id=vm_id, vm_id=vm_id)
    Provisioning.objects.create(
        name="x", profile="full", provider="vers", actor="t", state=State.FAILED, machine=machine
    )
    reconcile.compare_all()
    found = only_finding(api)
    assert found["proposal"] == "delete"
    assert "which failed" in found["text"]


def test_vanished_vm_is_not_shown_as_running(api: Api, emulator: Emulator) -> None:
    vm_id = create_member(emulator)
    assert VM.objects.get().status == "running"
    delete_at_platform(emulator, vm_id)
    reconcile.compare_all()

    (machine,) = api.get("/bootloader/machines").json()["machines"]
    assert machine["state"] == "vanished"
    facts = api.get(f"/registry/vms/{vm_id}").json()
    assert facts["status"] == "stopped"
    assert api.get("/registry/discover/worker").json()["count"] == 0

    # A heartbeat counts more than the list.
    api.post(f"/registry/vms/{vm_id}/heartbeat")
    reconcile.compare_all()
    assert api.get(f"/registry/vms/{vm_id}").json()["status"] == "running"


def test_deleted_vm_with_children_is_shown_as_stopped(api: Api, emulator: Emulator) -> None:
    vm_id = create_member(emulator)
    tree.create(tree.NewNode("child", "agent_vm", "child", vm_id), by="tests")
    machines.delete(Machine.objects.get(), by="tests")
    assert api.get(f"/registry/vms/{vm_id}").json()["status"] == "stopped"


def test_no_vm_is_reported_idle_after_reefs_own_downtime(api: Api, emulator: Emulator) -> None:
    vm_id = create_member(emulator)
    now = clock.now()
    VM.objects.filter(pk=vm_id).update(last_seen=now - timedelta(hours=2))
    watch = Watch.objects.create(up_since=now - timedelta(minutes=1), ticked_at=now)
    assert reconcile.compare_all() == 0
    # A finding stays open until a heartbeat arrives.
    watch.up_since = now - timedelta(minutes=6)
    watch.save()
    assert reconcile.compare_all() == 1
    Watch.objects.update(up_since=clock.now())
    assert reconcile.compare_all() == 1
    api.post(f"/registry/vms/{vm_id}/heartbeat")
    assert reconcile.compare_all() == 0


def test_children_of_a_vanished_vm_are_named(api: Api, emulator: Emulator) -> None:
    vm_id = create_member(emulator)
    tree.create(tree.NewNode("ada", "lieutenant", "ada-vm", vm_id), by="tests")
    delete_at_platform(emulator, vm_id)
    reconcile.compare_all()
    answer = api.post(f"/bootloader/findings/{only_finding(api)['id']}/act")
    assert answer.status_code == 400
    assert "Below it: 'ada'." in answer.json()["error"]


def test_two_machines_with_one_identity_are_one_finding(api: Api) -> None:
    node = tree.create(tree.NewNode("one", "agent_vm", "vm-1"), by="tests")
    registry.register(Registration("vm-1", "one", "worker", "a", "tests"))
    token = tokens.issue(node, made_by="tests")
    for machine in ("a1", "b2", "a1", "b2"):
        api.post("/registry/vms/vm-1/heartbeat", {"machine": machine})
    reconcile.compare_all()
    reconcile.compare_all()

    found = only_finding(api)
    assert (found["kind"], found["vmId"], found["proposal"]) == ("twin", "vm-1", "revoke")
    assert "machines a1 and b2" in found["text"]
    answer = api.post(f"/bootloader/findings/{found['id']}/act")
    assert answer.json()["finding"]["state"] == "done", answer.content
    mine = Client(headers={"authorization": f"Bearer {token}"})
    assert mine.post("/registry/vms/vm-1/heartbeat").status_code == 401

    # One of the two is deleted, so the finding is resolved.
    VM.objects.update(vitals={"machine": "a1", "twinSeenAt": clock.format_timestamp(clock.now())})
    reconcile.compare_all()
    old = clock.format_timestamp(clock.now() - timedelta(hours=1))
    VM.objects.update(vitals={"machine": "a1", "twinSeenAt": old})
    assert reconcile.compare_all() == 0


def test_vanished_vm_is_removed(api: Api, emulator: Emulator) -> None:
    vm_id = create_member(emulator)
    delete_at_platform(emulator, vm_id)
    reconcile.compare_all()
    found = only_finding(api)
    assert (found["kind"], found["proposal"]) == ("vanished", "bury")
    assert Node.objects.active().count() == 1

    api.post(f"/bootloader/findings/{found['id']}/act")

    assert not Node.objects.active().exists()
    assert not VM.objects.exists()
    assert Machine.objects.get().is_gone
    assert reconcile.compare_all() == 0


def test_several_vanished_vms_are_removed_together(api: Api, emulator: Emulator) -> None:
    """Parents are removed before their children, whatever the order of the names."""
    parent = create_member(emulator)
    child = create_unknown_vm(emulator)
    tree.create(tree.NewNode("two", "agent_vm", child, parent), by="tests")
    reconcile.compare_provider("vers")
    for vm_id in (parent, child):
        delete_at_platform(emulator, vm_id)
    reconcile.compare_all()
    found = api.get("/bootloader/findings").json()["findings"]
    assert [each["actions"] for each in found] == [["bury"], ["bury"]]
    path = "/bootloader/findings/act"

    assert api.post(path).status_code == 400
    assert api.post(path, {"kind": "lost"}).status_code == 400
    assert api.post(path, {"ids": ["1"]}).status_code == 400
    assert api.post(path, {"ids": [99]}).status_code == 404
    wrong = api.post(path, {"kind": "vanished", "action": "pause"})
    assert wrong.status_code == 400
    assert "valid: bury" in wrong.json()["error"]
    assert Node.objects.active().count() == 2

    answer = api.post(path, {"kind": "vanished", "provider": "vers"}).json()

    assert (answer["count"], answer["failed"]) == (2, [])
    assert not Node.objects.active().exists()
    assert reconcile.compare_all() == 0


def test_failed_actions_leave_their_findings_open_with_a_reason(
    api: Api, emulator: Emulator
) -> None:
    first, second = create_unknown_vm(emulator), create_unknown_vm(emulator)
    reconcile.compare_provider("vers")
    reconcile.compare_all()
    Machine.objects.filter(machine_id=second).delete()
    ids = [row.pk for row in Finding.objects.order_by("id")]
    answer = api.post("/bootloader/findings/act", {"ids": ids, "action": "delete"}).json()
    assert [each["machineId"] for each in answer["findings"]] == [first]
    assert "not known any more" in answer["failed"][0]["error"]
    assert Finding.objects.get(machine_id=second).state == FindingState.OPEN


def test_findings_of_a_kind_have_a_common_button(api: Api, emulator: Emulator) -> None:
    operator = Client()
    operator.force_login(make_operator())
    for _ in range(2):
        create_unknown_vm(emulator)
    reconcile.compare_provider("vers")
    reconcile.compare_all()
    page = operator.get("/provisioning/findings/").content.decode()
    assert "2 × unknown VM at vers" in page
    said = {"kind": "unknown", "provider": "vers", "proposal": "adopt"}
    operator.post("/provisioning/findings/all/", said)
    assert Node.objects.active().count() == 2
    assert not Finding.objects.open().exists()


def test_disallowed_action_is_rejected(api: Api, emulator: Emulator) -> None:
    create_unknown_vm(emulator)
    reconcile.compare_all()
    key = only_finding(api)["id"]
    for action in ("bury", "pause"):
        answer = api.post(f"/bootloader/findings/{key}/act", {"action": action})
        assert answer.status_code == 400, answer.content
        assert "valid: adopt, delete" in answer.json()["error"]
    assert len(emulator.vms()) == 1


def test_new_vms_are_reported_as_skipped(
    api: Api, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "GRACE_PERIOD", timedelta(minutes=3))
    vm_id = create_unknown_vm(emulator)
    answer = api.post("/bootloader/reconcile").json()
    assert answer["count"] == 0
    assert [each["machineId"] for each in answer["skipped"]] == [vm_id]
    assert "less than 3 minutes" in answer["note"]


def test_imported_idle_vm_is_reported(api: Api, emulator: Emulator) -> None:
    create_unknown_vm(emulator)
    reconcile.compare_all()
    answer = api.post(f"/bootloader/findings/{only_finding(api)['id']}/act").json()
    assert "not in the registry until the boot script" in answer["finding"]["outcome"]

    reconcile.compare_all()

    found = only_finding(api)
    assert (found["kind"], found["proposal"]) == ("useless", "delete")
    assert "never registered" in found["text"]


def test_stopped_vm_that_runs_is_reported(api: Api, emulator: Emulator) -> None:
    create_member(emulator)
    long_ago = clock.now() - timedelta(hours=2)
    VM.objects.update(status="stopped", late_after=None, silent_after=None, last_seen=long_ago)
    reconcile.compare_all()
    found = only_finding(api)
    assert (found["kind"], found["proposal"]) == ("useless", "delete")
    assert "is stopped in the registry" in found["text"]


def provisioning_waiting_in(vm_id: str, name: StepName) -> Provisioning:
    """Create a provisioning that has waited in this step for a while."""
    machine = Machine.objects.create(provider="vers", machine_id=vm_id, vm_id=vm_id, name="x")
    row = Provisioning.objects.create(
        name="x", profile="full", provider="vers", actor="t", state=State.RUNNING, machine=machine
    )
    order = list(StepName)
    for position, each in enumerate(order):
        done = position < order.index(name)
        state = StepState.DONE if done else StepState.WAITING
        step = BootStep.objects.create(provisioning=row, position=position, name=each, state=state)
        if each == name:
            since = clock.now() - timedelta(seconds=11)
            BootStep.objects.filter(pk=step.pk).update(state=StepState.RUNNING, started_at=since)
    Provisioning.objects.filter(pk=row.pk).update(vm_id=vm_id)
    return row


@pytest.mark.parametrize(
    "name", [StepName.SSH, StepName.IDENTITY, StepName.UPLOAD, StepName.RUN, StepName.JOIN]
)
def test_provisioning_fails_if_its_vm_is_deleted_meanwhile(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, name: StepName
) -> None:
    drop_tasks(monkeypatch, "bootloader.")

    def refuse_connection(_machine: Machine) -> None:
        raise ShellUnavailable("it cannot be reached by SSH")

    monkeypatch.setattr(pool, "connection", refuse_connection)
    vm_id = create_unknown_vm(emulator)
    row = provisioning_waiting_in(vm_id, name)
    runner.advance(row.pk)
    row.refresh_from_db()
    assert row.state == State.RUNNING, "it is there, only slow"

    delete_at_platform(emulator, vm_id)
    for step in row.steps.filter(name=name):
        step.keep(asked_provider=(clock.now() - timedelta(seconds=11)).isoformat())
    runner.advance(row.pk)

    row.refresh_from_db()
    assert row.state == State.FAILED
    assert "the VM is gone at vers; a retry makes a new one" in row.reason
    assert Machine.objects.get().is_gone


def test_briefly_incomplete_list_is_not_trusted(api: Api, emulator: Emulator) -> None:
    vm_id = create_member(emulator)
    emulator.set(list_gap=3, list_gap_vm=vm_id)
    assert reconcile.compare_all() == 0
    assert not Machine.objects.get().is_gone


def test_unreachable_platform_produces_no_findings(api: Api, emulator: Emulator) -> None:
    create_member(emulator)
    emulator.fail("*", status=503, times=100)
    assert reconcile.compare_all() == 0
    assert not Machine.objects.get().is_gone


def test_silent_running_vm_is_reported_idle(api: Api, emulator: Emulator) -> None:
    vm_id = create_member(emulator)
    VM.objects.update(last_seen=clock.now() - timedelta(hours=2))
    reconcile.compare_all()
    found = only_finding(api)
    assert (found["kind"], found["proposal"]) == ("useless", "delete")

    registry.keep_alive([vm_id])
    refused = api.post(f"/bootloader/findings/{found['id']}/act")
    assert refused.status_code == 409
    assert "was heard of since" in refused.json()["error"]
    assert reconcile.compare_all() == 0
    assert Finding.objects.get().state == FindingState.SETTLED
    assert [vm["vm_id"] for vm in emulator.vms()] == [vm_id]


def test_dismissed_finding_is_not_reported_again(api: Api, emulator: Emulator) -> None:
    vm_id = create_unknown_vm(emulator)
    reconcile.compare_all()
    api.post(f"/bootloader/findings/{only_finding(api)['id']}/dismiss")
    assert reconcile.compare_all() == 0
    assert Finding.objects.count() == 1

    delete_at_platform(emulator, vm_id)
    reconcile.compare_all()
    assert Finding.objects.get().state == FindingState.SETTLED


def test_running_vm_that_should_be_paused_is_reported(api: Api, emulator: Emulator) -> None:
    create_member(emulator)
    VM.objects.update(status="paused", late_after=None, silent_after=None)
    reconcile.compare_all()
    found = only_finding(api)
    assert found["proposal"] == Proposal.PAUSE
    api.post(f"/bootloader/findings/{found['id']}/act")
    assert emulator.vms()[0]["state"] == "paused"
    assert reconcile.compare_all() == 0


def test_vms_of_another_account_are_ignored(api: Api, emulator: Emulator) -> None:
    headers = {"authorization": f"Bearer {emulator.create_key()}"}
    url = f"{emulator.url}/api/v1/vm/new_root?wait_boot=true"
    httpx.post(url, json={"vm_config": {}}, headers=headers, timeout=60)
    assert reconcile.compare_all() == 0
    assert not Machine.objects.exists()
