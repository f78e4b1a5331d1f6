"""A change of the wall clock makes no lieutenant idle, stalled or silent."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from lieutenants.models import Lieutenant
from lieutenants.sessions.session import Session
from lieutenants.states import Status
from lieutenants.supervision import clock_jumps
from registry import services as registry
from registry.models import VM, Watch
from registry.models import Status as VMStatus
from registry.rules import conditions
from registry.rules.models import Action, Event, Firing, Rule
from tests.conftest import Api
from tests.lieutenants.rows import enlist, process_of

DAY = timedelta(days=1)


def shifted(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Shift the wall clock."""
    real = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: real() + by)


@pytest.mark.django_db
@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_idle_and_silent_times_survive_a_clock_change(
    monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    idle = enlist("ada", status=Status.IDLE, idle_limit_minutes=10)
    busy = enlist("bob", status=Status.WORKING, waiting_for="the model")
    shifted(monkeypatch, jump)

    clock_jumps.rebase(jump)

    assert not Lieutenant.objects.idle_too_long(timezone.now())
    busy.refresh_from_db()
    idle.refresh_from_db()
    assert not busy.stalled
    for row in (idle, busy):
        assert abs(timezone.now() - row.last_activity_at) < timedelta(minutes=1)
        assert abs(timezone.now() - row.status_since) < timedelta(minutes=1)


@pytest.mark.django_db
@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_rule_does_not_fire_again_for_the_same_failure(
    monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    since = timezone.now() - timedelta(hours=1)
    series = {"key": "k", "text": "413", "count": 2, "since": since.isoformat()}
    row = enlist("ada", failing_since=since, failures=series)
    session = Session.open(process_of(row))
    rule = Rule.objects.create(
        name="failing", event=Event.LIEUTENANT_FAILING, action=Action.NOTE, minutes=1
    )
    assert conditions.find_cases(rule, timezone.now(), 10)
    Firing.objects.create(rule=rule, event=rule.event, subject=row.pk, cause_at=since)
    shifted(monkeypatch, jump)

    clock_jumps.rebase(jump, [session])

    assert not conditions.find_cases(rule, timezone.now(), 10)
    row.refresh_from_db()
    for lieutenant in (row, session.lieutenant):
        assert lieutenant.failing_since == since + jump
        assert lieutenant.failures["since"] == (since + jump).isoformat()


@pytest.mark.django_db
def test_lease_and_restart_do_not_wait_after_a_clock_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = enlist("ada", status=Status.ERROR, restart_at=timezone.now() + timedelta(seconds=1))
    lease = timedelta(seconds=35)
    assert Lieutenant.objects.claim(row.pk, lease)
    assert Lieutenant.objects.claim(row.pk, lease) is None
    shifted(monkeypatch, -DAY)

    # Nothing renews it: its holder is gone.
    assert Lieutenant.objects.claim(row.pk, lease)
    clock_jumps.rebase(-DAY)

    due = timezone.now() + timedelta(seconds=5)
    assert row in Lieutenant.objects.due_for_restart(due)


def register(api: Api, name: str) -> str:
    body = {"id": name, "name": name, "role": "worker", "address": "h", "registeredBy": "t"}
    assert api.post("/registry/vms", body).status_code == 201
    return name


def said(api: Api, vm_id: str) -> dict[str, Any]:
    facts: dict[str, Any] = api.get(f"/registry/vms/{vm_id}").json()
    return facts


@pytest.mark.django_db
def test_vm_with_a_future_heartbeat_does_not_stay_live(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as ahead:
        shifted(ahead, DAY)
        vm_id = register(api, "box")
        registry.sweep()
    assert VM.objects.get(pk=vm_id).last_seen > timezone.now()

    registry.sweep()

    seen = datetime.fromisoformat(said(api, vm_id)["lastSeen"])
    assert abs(timezone.now() - seen) < timedelta(minutes=1)
    api.post(f"/registry/vms/{vm_id}/heartbeat")
    vm = VM.objects.get(pk=vm_id)
    assert vm.status == VMStatus.RUNNING
    assert vm.silent_after is not None
    assert vm.silent_after < timezone.now() + timedelta(hours=1)


@pytest.mark.django_db
@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_clock_change_makes_no_vm_silent(
    api: Api, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    vm_id = register(api, "box")
    registry.sweep()
    shifted(monkeypatch, jump)

    assert said(api, vm_id)["liveness"] != "silent"
    registry.sweep()
    assert said(api, vm_id)["liveness"] != "silent"

    # The grace period lasts for minutes, not for the length of the jump.
    assert Watch.grace(timezone.now())
    assert not Watch.objects.get().was_set_back(timezone.now())
    watch = Watch.objects.get()
    later = timezone.now() + timedelta(minutes=6)
    watch.ticked_at = watch.door_at = later
    assert not watch.forgives(later)
