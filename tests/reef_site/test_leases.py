"""Leases on real rows: one of two claimers, the end of a lease, clocks that were set back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connections

from bootloader.models import Provisioning
from bootloader.states import State
from lieutenants.models import Lieutenant
from reef_site.common import clock
from reef_site.common.leases import LeaseQuerySet, is_leased
from registry.rules.models import Action, Event, Firing, Rule
from tests.fleets import database
from tests.waiting import until
from vmtree.operations.models import Job, JobState, Operation, Step, StepState
from vmtree.snapshot_models import Snapshot, Why

__all__ = ["database"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("database")]

LEASE = timedelta(seconds=30)
ROUNDS = 20
# For each model with a lease: a row, and a function that claims it.
Claim = Callable[[object], object]


def _lieutenant() -> tuple[object, Claim]:
    row = Lieutenant.objects.create(name="ada", role="tests")
    return row.pk, lambda pk: Lieutenant.objects.claim(str(pk), LEASE)


def _job() -> tuple[object, Claim]:
    row = Job.objects.create(verb=Operation.PAUSE, vm_id="top", actor="tests")
    return row.pk, lambda pk: Job.objects.claim(str(pk), LEASE)


def _step() -> tuple[object, Claim]:
    job = Job.objects.create(verb=Operation.PAUSE, vm_id="top", actor="tests")
    row = Step.objects.create(job=job, position=0, vm_id="top", handler="vm", does="pause it")
    return row.pk, lambda pk: Step.objects.claim(int(str(pk)), LEASE)


def _firing() -> tuple[object, Claim]:
    rule = Rule.objects.create(name="silent", event=Event.VM_SILENT, action=Action.NOTE)
    row = Firing.objects.create(
        rule=rule, event=rule.event, action=rule.action, subject="top", cause_at=clock.now()
    )
    return row.pk, lambda pk: Firing.objects.claim(int(str(pk)), LEASE)


def _provisioning() -> tuple[object, Claim]:
    row = Provisioning.objects.create(name="one", state=State.RUNNING, actor="tests")

    def claim(pk: object) -> object:
        return Provisioning.objects.claim(str(pk), f"w{threading.get_ident()}", LEASE)

    return row.pk, claim


MAKERS = [_lieutenant, _job, _step, _firing, _provisioning]


def together(claim: Callable[[], object], count: int = 3) -> list[object]:
    """Claim at the same time, each on a connection of its own."""
    start = threading.Barrier(count)
    found: list[object] = []

    def run() -> None:
        start.wait(10)
        try:
            found.append(claim())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


@pytest.mark.parametrize("make", MAKERS)
def test_one_of_several_claimers_gets_the_lease(make: Callable[[], tuple[object, Claim]]) -> None:
    pk, claim = make()
    found = together(lambda: claim(pk))
    assert len(found) == 3
    assert len([row for row in found if row is not None]) == 1


def test_only_one_of_several_claimers_gets_the_step() -> None:
    pk, claim = _step()
    for _ in range(ROUNDS):
        Step.objects.update(state=StepState.WAITING, leased_until=None, attempts=0)
        assert len([row for row in together(lambda: claim(pk)) if row is not None]) == 1
        assert Step.objects.get().attempts == 1


def jobs() -> LeaseQuerySet[Job]:
    return Job.objects.all()


def test_lease_is_free_again_when_it_ends() -> None:
    pk, _ = _job()
    assert jobs().acquire(pk, LEASE)
    assert jobs().acquire(pk, LEASE) is None
    assert not jobs().free(clock.now(), LEASE).exists()
    Job.objects.update(leased_until=clock.now() - timedelta(milliseconds=1))
    assert jobs().free(clock.now(), LEASE).exists()
    assert jobs().acquire(pk, LEASE)


def test_lease_far_in_the_future_does_not_count() -> None:
    """It was written before the clock was set back; waiting for its end could take days."""
    pk, _ = _job()
    now = clock.now()
    near, far = now + LEASE + clock.SKEW / 2, now + LEASE + 2 * clock.SKEW
    Job.objects.update(leased_until=near)
    assert is_leased(near, now, LEASE)
    assert jobs().acquire(pk, LEASE) is None
    Job.objects.update(leased_until=far)
    assert not is_leased(far, now, LEASE)
    assert jobs().acquire(pk, LEASE)


def test_pause_longer_than_the_lease_is_kept() -> None:
    pk, _ = _job()
    pause = timedelta(hours=2)
    Job.objects.update(leased_until=clock.now() + pause)
    assert jobs().acquire(pk, LEASE, longest=pause) is None
    assert jobs().acquire(pk, LEASE)


def test_row_outside_of_the_set_is_not_leased() -> None:
    pk, _ = _job()
    Job.objects.update(state=JobState.DONE)
    assert Job.objects.open().acquire(pk, LEASE) is None
    assert Job.objects.get().leased_until is None


def test_late_holder_does_not_release_the_next_holders_lease() -> None:
    pk, _ = _job()
    first = jobs().acquire(pk, timedelta(seconds=-1))
    second = jobs().acquire(pk, LEASE)
    assert not jobs().release(pk, first)
    assert Job.objects.get().leased_until == second
    assert jobs().release(pk, second)
    assert Job.objects.get().leased_until is None


def test_named_holder_renews_and_releases_its_own_lease_only() -> None:
    pk, _ = _provisioning()
    rows = Provisioning.objects
    assert rows.claim(str(pk), "a", timedelta(seconds=-1))
    assert not rows.is_held(pk, "a")
    assert rows.renew(pk, "a", LEASE)
    assert rows.is_held(pk, "a")
    assert not rows.renew(pk, "b", LEASE)
    assert not rows.release_held(pk, "b")
    look_at = clock.now()
    assert rows.release_held(pk, "a", look_at=look_at)
    row = rows.get()
    assert (row.leased_until, row.leased_by, row.look_at) == (None, "", look_at)


def test_lease_is_renewed_while_its_holder_works() -> None:
    pk, _ = _provisioning()
    short = timedelta(seconds=1)
    assert Provisioning.objects.claim(str(pk), "a", short)
    first = Provisioning.objects.get().leased_until
    assert first
    with Provisioning.objects.renewing(pk, "a", short):
        until(lambda: (Provisioning.objects.get().leased_until or first) > first + short)
        assert Provisioning.objects.claim(str(pk), "b", short) is None


def test_snapshot_without_a_writer_is_abandoned_when_its_lease_ends() -> None:
    now = clock.now()
    facts = {"why": Why.ASKED, "made_by": "tests"}
    held = Snapshot.objects.create(file="held", leased_until=now + LEASE, **facts)
    over = Snapshot.objects.create(file="over", leased_until=now - LEASE, **facts)
    set_back = now + timedelta(days=3)
    far = Snapshot.objects.create(file="far", leased_until=set_back, **facts)
    assert {row.pk for row in Snapshot.objects.abandoned(now)} == {over.pk, far.pk}
    assert held.pk
