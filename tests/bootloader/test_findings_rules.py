"""Rules say so, too: what a finding proposes is done after grace, and only to the dead."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from bootloader.inventory import reconcile
from bootloader.models import Finding, Machine, Provisioning
from bootloader.states import FindingState, State
from reef_site.common import clock
from registry.models import VM
from registry.rules import engine
from registry.rules.models import Firing, Rule
from tests.bootloader.test_provision_reconcile import (
    create_member,
    create_unknown_vm,
    delete_at_platform,
)
from tests.conftest import Api
from tests.dispatching import drop_tasks
from tests.emulator.fixture import emulator, emulator_of_the_run
from tests.emulator.handle import Emulator
from vmtree.models import Node

__all__ = ["emulator", "emulator_of_the_run"]

pytestmark = pytest.mark.django_db(transaction=True)

RULES = "/registry/rules"


@pytest.fixture(autouse=True)
def platform(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Configure the emulator, without grace period and without workers."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(reconcile, "GRACE_PERIOD", timedelta(0))
    drop_tasks(monkeypatch, "rules.")
    return emulator


def create_rule(api: Api, event: str, **fields: Any) -> int:
    """Create an enabled rule through the API."""
    body = {"name": event, "event": event, "action": "do-proposed", "graceMinutes": 5}
    answer = api.post(RULES, {**body, "enabled": True, **fields})
    assert answer.status_code == 201, answer.content
    return int(answer.json()["rule"]["id"] if "rule" in answer.json() else answer.json()["id"])


def run_rule_after_grace() -> Firing:
    """Run a tick, let the grace period pass, and act. Return the only rule execution."""
    for key in engine.tick():
        engine.act(key)
    Firing.objects.filter(state="waiting").update(due_at=clock.now())
    for key in engine.tick():
        engine.act(key)
    return Firing.objects.get()


def test_vanished_vm_is_removed_after_grace(api: Api, emulator: Emulator) -> None:
    vm_id = create_member(emulator)
    delete_at_platform(emulator, vm_id)
    reconcile.compare_all()
    create_rule(api, "finding-vanished")
    assert engine.tick() == []
    waits = Firing.objects.get()
    assert (waits.subject, waits.state) == (vm_id, "waiting")
    assert Node.objects.active().filter(vm_id=vm_id).exists()

    done = run_rule_after_grace()

    assert (done.state, done.evidence["kind"]) == ("done", "vanished"), done.outcome
    assert not Node.objects.active().filter(vm_id=vm_id).exists()
    assert not VM.objects.filter(pk=vm_id).exists()
    found = Finding.objects.get()
    assert (found.state, found.decided_by) == (FindingState.DONE, "rule finding-vanished")


def test_operators_decision_takes_precedence(api: Api, emulator: Emulator) -> None:
    vm_id = create_member(emulator)
    delete_at_platform(emulator, vm_id)
    reconcile.compare_all()
    create_rule(api, "finding-vanished")
    engine.tick()
    reconcile.dismiss(Finding.objects.get().pk, by="tests")

    assert run_rule_after_grace().state == "dropped"
    assert Node.objects.active().filter(vm_id=vm_id).exists()


def test_leftover_vm_is_deleted_with_two_pieces_of_evidence(api: Api, emulator: Emulator) -> None:
    vm_id = create_unknown_vm(emulator)
    machine = Machine.objects.create(provider="vers", machine_id=vm_id, vm_id=vm_id)
    Provisioning.objects.create(
        name="x", profile="full", provider="vers", actor="t", state=State.FAILED, machine=machine
    )
    reconcile.compare_all()
    key = create_rule(api, "finding-unknown")
    (would,) = api.get(f"{RULES}/{key}/dry-run").json()["would"]
    assert would["acts"]
    assert {proof["source"] for proof in would["proofs"]} == {"tree", "silence"}
    assert len(emulator.vms()) == 1

    done = run_rule_after_grace()

    assert done.state == "done", done.outcome
    assert emulator.vms() == []
    assert [proof["holds"] for proof in done.evidence["proofs"]] == [True, True]


def test_possibly_live_vm_is_not_touched(api: Api, emulator: Emulator) -> None:
    vm_id = create_member(emulator)
    VM.objects.filter(pk=vm_id).update(last_seen=clock.now() - timedelta(hours=2))
    reconcile.compare_all()
    create_rule(api, "finding-useless")

    held = run_rule_after_grace()

    assert (held.state, "not proven dead by two signs" in held.outcome) == ("waiting", True)
    assert len(emulator.vms()) == 1
    # Its deregistration is the second piece of evidence.
    stopped = {"status": "stopped", "late_after": None, "silent_after": None}
    VM.objects.filter(pk=vm_id).update(**stopped)
    Firing.objects.update(due_at=clock.now())
    for key in engine.tick():
        engine.act(key)
    assert Firing.objects.get().state == "done", Firing.objects.get().outcome
    assert emulator.vms() == []


def test_unknown_vm_is_imported_without_evidence(api: Api, emulator: Emulator) -> None:
    vm_id = create_unknown_vm(emulator)
    reconcile.compare_all()
    create_rule(api, "finding-unknown")

    assert run_rule_after_grace().state == "done"
    assert Node.objects.active().get().vm_id == vm_id


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"event": "vm-silent"}, "action: only a rule about findings does what one proposes"),
        ({"action": "pause"}, "action: for a finding must be one of note, webhook, snapshot"),
        ({"graceMinutes": 4}, "graceMinutes: a rule that may destroy waits 5 minutes"),
        ({"role": "worker"}, "role: a rule about findings knows no roles"),
        ({"category": "swarm_vm"}, "category: a rule about findings knows no categories"),
    ],
)
def test_invalid_rule_is_rejected(api: Api, wrong: dict[str, Any], says: str) -> None:
    body = {"name": "x", "event": "finding-unknown", "action": "do-proposed", "graceMinutes": 5}
    answer = api.post(RULES, {**body, **wrong})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(says)
    with pytest.raises(IntegrityError), transaction.atomic():
        Rule.objects.create(name="y", event="vm-late", action="do-proposed", grace_minutes=9)
