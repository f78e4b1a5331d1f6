"""VMs that are made for lieutenants, beside destroys, restarts and new lieutenants on them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from bootloader.exceptions import ProviderUnavailable
from bootloader.inventory import machines
from bootloader.models import Machine, Provisioning
from bootloader.provisioning import quota
from lieutenants.exceptions import NotConnected, NotNow
from lieutenants.models import Lieutenant, MadeVM, Process
from lieutenants.supervision import made_vms, remote_start, remote_work, runtime
from lieutenants.supervision.remote_places import NewPlace
from lieutenants.supervision.transports.ssh.transport import SshTransport
from reef_site.common.errors import LostRace
from tests.conftest import Api
from tests.dispatching import drop_tasks
from tests.lieutenants.remote import rows
from tests.vmtree.conftest import database

__all__ = ["database"]

pytestmark = pytest.mark.django_db


class Deletions:
    """Records which machines are deleted; `meanwhile` runs during the first deletion."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.trouble: Exception | None = None
        self.meanwhile: Any = lambda: None

    def __call__(self, machine: Machine, **_: object) -> None:
        self.made.append(machine.vm_id)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        if self.trouble:
            raise self.trouble
        _mark_gone(machine)


def _mark_gone(machine: Machine) -> None:
    now = timezone.now()
    Machine.objects.filter(pk=machine.pk).update(gone_at=now, state="")
    Provisioning.objects.filter(machine=machine).update(released_at=now)


@pytest.fixture
def deletions(monkeypatch: pytest.MonkeyPatch) -> Deletions:
    found = Deletions()
    drop_tasks(monkeypatch, "")
    monkeypatch.setattr(machines, "delete", found)
    monkeypatch.setattr(remote_work, "submit", lambda _key, work: work())
    monkeypatch.setattr(quota, "check_quota", lambda *_: None)
    rows.machine()
    return found


# -- another VM ------------------------------------------------------------------------------


def test_destroyed_lieutenant_gets_no_other_vm(deletions: Deletions) -> None:
    row = rows.lieutenant(status="starting")
    rows.made_vm(row)
    _mark_gone(Machine.objects.get())
    Lieutenant.objects.update(on_vm="", status_since=timezone.now())
    row = rows.claim(row)
    Lieutenant.objects.update(status="destroyed")
    assert not made_vms.bring_up(row)
    assert Provisioning.objects.count() == 1
    Lieutenant.objects.update(status="starting")
    assert not made_vms.bring_up(row)
    assert Provisioning.objects.count() == 2
    assert MadeVM.objects.get().provisioning == Provisioning.objects.first()


def test_other_vm_is_not_ordered_after_the_former_one_was_removed(database: str) -> None:
    rows.machine(gone_at=timezone.now())
    row = rows.claim(rows.lieutenant(status="starting"))
    made = rows.made_vm(row)

    def remove() -> None:
        MadeVM.objects.update(removed_at=timezone.now())

    rows.at_once(remove, lambda: made_vms._make_again(row, made))
    assert Provisioning.objects.count() == 1


def test_vm_that_was_ordered_during_the_removal_is_removed_as_well(deletions: Deletions) -> None:
    row = rows.lieutenant(status="destroyed")
    rows.made_vm(row)
    second = rows.machine("vm-2")
    later = Provisioning.objects.create(
        name="later", provider="vers", state="done", machine=second, vm_id="vm-2"
    )
    deletions.meanwhile = lambda: MadeVM.objects.update(provisioning=later)
    runtime._reconcile_machines()
    assert MadeVM.objects.get().removed_at is None
    runtime._reconcile_machines()
    assert deletions.made == ["vm-1", "vm-2"]
    assert MadeVM.objects.get().removed_at


def test_vm_of_a_lieutenant_that_was_stopped_is_not_taken(deletions: Deletions) -> None:
    row = rows.lieutenant(status="starting", vm="vm-1")
    rows.made_vm(row)
    Lieutenant.objects.update(on_vm="")
    row = rows.claim(row)
    Lieutenant.objects.update(status="destroyed")
    assert not made_vms.bring_up(row)
    assert Lieutenant.objects.get().on_vm == ""


# -- deletions -------------------------------------------------------------------------------


def test_vm_that_is_being_deleted_takes_no_new_lieutenants(deletions: Deletions, api: Api) -> None:
    rows.made_vm(rows.lieutenant(status="destroyed"))
    answers = []

    def create() -> None:
        body = {"name": "near", "role": "r", "local": False, "vmId": "vm-1"}
        body |= {"agent": "command", "command": ["cat"]}
        answers.append(api.post("/lieutenant/lieutenants", body))

    deletions.meanwhile = create
    runtime._reconcile_machines()
    (answer,) = answers
    assert answer.status_code == 400
    assert answer.json()["error"] == "vmId: the VM 'vm-1' is being deleted"
    assert MadeVM.objects.get().removed_at
    assert Lieutenant.objects.count() == 1


def test_vm_with_a_new_lieutenant_is_not_deleted(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_tasks(monkeypatch, "")
    rows.machine()
    row = rows.claim(rows.lieutenant(status="destroyed"))
    made = rows.made_vm(row)

    def create() -> None:
        NewPlace("vm-1", vm_id="vm-1").claim()
        rows.lieutenant("near")

    assert rows.at_once(create, lambda: made_vms.begin_removal(made)) is False
    assert MadeVM.objects.get().deleting_since is None


def test_new_lieutenant_sees_that_its_vm_is_being_deleted(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_tasks(monkeypatch, "")
    rows.machine()
    row = rows.claim(rows.lieutenant(status="destroyed"))
    made = rows.made_vm(row)

    def claim() -> str:
        try:
            with transaction.atomic():
                NewPlace("vm-1", vm_id="vm-1").claim()
        except NotNow as error:
            return str(error)
        return ""

    assert "being deleted" in rows.at_once(lambda: made_vms.begin_removal(made), claim)


def test_late_worker_does_not_begin_a_deletion(deletions: Deletions) -> None:
    row = rows.claim(rows.lieutenant(status="destroyed"))
    made = rows.made_vm(row)
    Lieutenant.objects.update(leased_by="another worker")
    with pytest.raises(LostRace):
        made_vms.begin_removal(made)
    remote_start.remove_files(row)
    assert deletions.made == []


def failed(deletions: Deletions) -> Lieutenant:
    row = rows.lieutenant(status="error")
    rows.made_vm(row)
    return row


def test_restart_during_the_deletion_waits_and_gets_another_vm(deletions: Deletions) -> None:
    row = failed(deletions)
    deletions.trouble = ProviderUnavailable("busy")

    def restart() -> None:
        Lieutenant.objects.update(status="starting", status_since=timezone.now())

    deletions.meanwhile = restart
    runtime._reconcile_machines()
    row = rows.claim(row)
    assert not made_vms.bring_up(row)
    waiting = Lieutenant.objects.get()
    assert (waiting.status, waiting.on_vm) == ("starting", "vm-1")
    assert waiting.waiting_for == "its former VM, which is being deleted"
    Lieutenant.objects.release_held(row.pk, row.leased_by)

    deletions.trouble = None
    runtime.reconcile()
    assert deletions.made == ["vm-1", "vm-1"]
    assert Lieutenant.objects.get().on_vm == ""
    assert MadeVM.objects.get().deleting_since is None
    runtime.reconcile()
    assert MadeVM.objects.get().provisioning.state == "queued"


def test_restart_before_the_deletion_keeps_the_vm(deletions: Deletions) -> None:
    row = rows.claim(failed(deletions))
    Lieutenant.objects.update(status="starting")
    made_vms.clean_up_failed(row)
    assert deletions.made == []
    assert made_vms.bring_up(row)


# -- machines that do not answer -------------------------------------------------------------


OVERDUE = timedelta(seconds=90)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no machine answer."""

    def refuse(*_: object, **__: object) -> None:
        raise NotConnected("no route to host")

    for name in ("stop", "end", "withdraw", "remove"):
        monkeypatch.setattr(SshTransport, name, refuse)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("handle", [{"keeper_pid": 1}, {}], ids=["agent", "lost start"])
def test_vm_of_a_destroyed_lieutenant_that_does_not_answer_is_deleted(
    deletions: Deletions, handle: dict[str, int]
) -> None:
    row = rows.lieutenant(status="destroyed", has_remote_files=True)
    rows.made_vm(row)
    process = rows.process(row, handle=handle)
    runtime.reconcile()
    assert deletions.made == [], "its agent may still end in an orderly way"
    process.refresh_from_db()
    assert process.stop_asked_at
    Process.objects.update(stop_asked_at=process.stop_asked_at - OVERDUE)
    runtime.reconcile()
    assert deletions.made == ["vm-1"]
    assert MadeVM.objects.get().removed_at
    assert not Lieutenant.objects.get().has_remote_files


@pytest.mark.usefixtures("silent")
def test_other_lieutenants_keep_the_vm_that_does_not_answer(deletions: Deletions) -> None:
    row = rows.lieutenant(status="destroyed", has_remote_files=True)
    rows.made_vm(row)
    rows.process(row, stop_asked_at=timezone.now() - OVERDUE)
    rows.lieutenant("near")
    runtime.reconcile()
    assert deletions.made == []
    assert Lieutenant.objects.get(pk=row.pk).has_remote_files


@pytest.mark.usefixtures("silent")
def test_vm_of_a_failed_start_that_does_not_answer_is_deleted(deletions: Deletions) -> None:
    row = failed(deletions)
    process = rows.process(row, handle={}, stop_asked_at=timezone.now())
    runtime.reconcile()
    assert deletions.made == []
    Process.objects.update(stop_asked_at=timezone.now() - OVERDUE)
    runtime.reconcile()
    assert deletions.made == ["vm-1"]
    assert Lieutenant.objects.get().on_vm == "vm-1", "the process is still found by it"
    Process.objects.filter(pk=process.pk).update(ended_at=timezone.now())
    runtime.reconcile()
    assert Lieutenant.objects.get().on_vm == ""
    assert MadeVM.objects.get().deleting_since is None


# -- takeovers during a deletion -------------------------------------------------------------


def lose_lease() -> None:
    Lieutenant.objects.update(leased_by="another worker")


def test_late_worker_does_not_record_that_a_vm_is_removed(deletions: Deletions) -> None:
    row = rows.claim(rows.lieutenant(status="destroyed", has_remote_files=True))
    rows.made_vm(row)
    deletions.meanwhile = lose_lease
    remote_start.remove_files(row)
    assert deletions.made == ["vm-1"]
    assert MadeVM.objects.get().removed_at is None
    assert Lieutenant.objects.get().has_remote_files


def test_late_worker_does_not_clear_the_next_vm_of_a_failed_lieutenant(
    deletions: Deletions,
) -> None:
    row = rows.claim(failed(deletions))

    def replace() -> None:
        lose_lease()
        Lieutenant.objects.update(on_vm="vm-2", status="starting")

    deletions.meanwhile = replace
    made_vms.clean_up_failed(row)
    assert deletions.made == ["vm-1"]
    assert Lieutenant.objects.get().on_vm == "vm-2"
    assert MadeVM.objects.get().deleting_since
