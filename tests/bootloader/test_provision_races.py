"""Two at the same time, on both databases: one VM, one holder, so many and no more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connections

from bootloader.inventory import machines
from bootloader.models import Machine, Provisioning
from bootloader.providers import base
from bootloader.provisioning import create_step, quota, services
from bootloader.provisioning.requests import ProvisionRequest
from bootloader.provisioning.steps import Context
from bootloader.states import CleanupPolicy, State, StepName, StepState
from reef_site.common import clock
from reef_site.common.errors import ReefError
from tests.dispatching import drop_tasks

ROUNDS = 15
LEASE = timedelta(seconds=30)


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.django_db(transaction=True)),
        pytest.param("postgresql", marks=pytest.mark.postgres),
    ],
    autouse=True,
)
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on both databases, without workers."""
    drop_tasks(monkeypatch, "bootloader.")
    if request.param == "postgresql":
        request.getfixturevalue("postgres")
    return str(request.param)


def run_concurrently(act: Callable[[int], object], times: int = 6) -> list[object]:
    """Call the function this often at once, each on its own connection; return the results."""
    start = threading.Barrier(times)
    found: list[object] = [None] * times

    def run(number: int) -> None:
        try:
            start.wait(20)
            found[number] = act(number)
        except ReefError as error:
            found[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[number]) for number in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def create_queued(name: str) -> Provisioning:
    """Create a provisioning that no worker has started."""
    return services.start(ProvisionRequest(name, "lightweight", provider="vers"), by="tests").rows[
        0
    ]


def test_concurrent_equal_requests_get_the_same_row() -> None:
    for number in range(ROUNDS):
        found = run_concurrently(lambda _, name=f"vm-{number}": create_queued(name).pk)  # type: ignore[misc]
        assert len({str(each) for each in found}) == 1, found
    assert Provisioning.objects.count() == ROUNDS


def test_only_one_worker_gets_the_lease() -> None:
    for number in range(ROUNDS):
        row = create_queued(f"vm-{number}")
        row.move(State.RUNNING)
        found = run_concurrently(
            lambda who, key=row.pk: Provisioning.objects.claim(key, f"w{who}", LEASE)  # type: ignore[misc]
        )
        assert sum(each is not None for each in found) == 1
        assert Provisioning.objects.get(pk=row.pk).leased_by.startswith("w")


def test_expired_lease_is_taken_by_one_worker() -> None:
    row = create_queued("vm")
    row.move(State.RUNNING)
    Provisioning.objects.update(leased_by="dead", leased_until=clock.now() - timedelta(seconds=1))
    found = run_concurrently(lambda who: Provisioning.objects.claim(row.pk, f"w{who}", LEASE))
    assert sum(each is not None for each in found) == 1
    with pytest.raises(ReefError):
        Context(row, "dead").check_lease()


def test_number_of_running_provisionings_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEF_PROVISION_AT_ONCE", "4")
    for number in range(12):
        create_queued(f"vm-{number}")
    run_concurrently(lambda _: quota.start_queued())
    assert Provisioning.objects.active().count() == 4


def test_only_one_provisioning_gets_a_found_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(ROUNDS):
        rows = [create_queued(f"vm-{number}-{which}") for which in range(4)]
        seen = base.Machine(f"m-{number}", base.MachineState.RUNNING)
        found = run_concurrently(
            lambda who, rows=rows, seen=seen: create_step._assign(
                Context(rows[who], ""), seen, "found"
            ),  # type: ignore[misc]
            4,
        )
        assert found.count(True) == 1, found
        taken = Provisioning.objects.filter(machine__machine_id=seen.id)
        assert taken.count() == 1


def test_surplus_machine_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(
        machines, "delete_at_provider", lambda machine, **_: ended.append(machine.machine_id)
    )
    for number in range(ROUNDS):
        row = create_queued(f"vm-{number}")
        seen = [base.Machine(f"m-{number}-{who}", base.MachineState.RUNNING) for who in range(2)]
        found = run_concurrently(
            lambda who, row=row, seen=seen: create_step._assign(
                Context(row, ""), seen[who], "made"
            ),  # type: ignore[misc]
            2,
        )
        assert found == [True, True]
        kept = Provisioning.objects.get(pk=row.pk).machine
        assert kept is not None
        assert {kept.machine_id, ended[-1]} == {each.id for each in seen}
    assert len(ended) == ROUNDS
    assert Machine.objects.count() == 2 * ROUNDS


def test_either_retry_or_cancel_wins() -> None:
    for number in range(ROUNDS):
        row = create_queued(f"vm-{number}")
        row.move(State.RUNNING)
        step = row.steps.get(name=StepName.RESOLVE)
        step.move(StepState.RUNNING)
        step.move(StepState.FAILED)
        row.move(State.FAILED)
        run_concurrently(
            lambda who, key=row.pk: (  # type: ignore[misc]
                services.retry(key, by="t")
                if who
                else services.cancel(key, CleanupPolicy.DELETE, by="t")
            ),
            2,
        )
        assert Provisioning.objects.get(pk=row.pk).state in (State.QUEUED, State.CANCELLING)
