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
    """The test runs on both databases; nobody is rung."""
    drop_tasks(monkeypatch, "bootloader.")
    if request.param == "postgresql":
        request.getfixturevalue("postgres")
    return str(request.param)


def together(act: Callable[[int], object], times: int = 6) -> list[object]:
    """Do it so often at once, each on a connection of its own; what each came to."""
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


def queued(name: str) -> Provisioning:
    """A provisioning that nobody has begun."""
    return services.start(ProvisionRequest(name, "lightweight", provider="vers"), by="tests").rows[
        0
    ]


def test_many_who_ask_get_the_same_row() -> None:
    for number in range(ROUNDS):
        found = together(lambda _, name=f"vm-{number}": queued(name).pk)  # type: ignore[misc]
        assert len({str(each) for each in found}) == 1, found
    assert Provisioning.objects.count() == ROUNDS


def test_one_holds_the_lease() -> None:
    for number in range(ROUNDS):
        row = queued(f"vm-{number}")
        row.move(State.RUNNING)
        found = together(
            lambda who, key=row.pk: Provisioning.objects.claim(key, f"w{who}", LEASE)  # type: ignore[misc]
        )
        assert sum(each is not None for each in found) == 1
        assert Provisioning.objects.get(pk=row.pk).leased_by.startswith("w")


def test_a_lease_that_ran_out_is_taken_by_one() -> None:
    row = queued("vm")
    row.move(State.RUNNING)
    Provisioning.objects.update(leased_by="dead", leased_until=clock.now() - timedelta(seconds=1))
    found = together(lambda who: Provisioning.objects.claim(row.pk, f"w{who}", LEASE))
    assert sum(each is not None for each in found) == 1
    with pytest.raises(ReefError):
        Context(row, "dead").check_lease()


def test_no_more_than_allowed_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEF_PROVISION_AT_ONCE", "4")
    for number in range(12):
        queued(f"vm-{number}")
    together(lambda _: quota.start_queued())
    assert Provisioning.objects.active().count() == 4


def test_one_of_two_takes_a_lost_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(ROUNDS):
        rows = [queued(f"vm-{number}-{which}") for which in range(4)]
        seen = base.Machine(f"m-{number}", base.MachineState.RUNNING)
        found = together(
            lambda who, rows=rows, seen=seen: create_step._assign(
                Context(rows[who], ""), seen, "found"
            ),  # type: ignore[misc]
            4,
        )
        assert found.count(True) == 1, found
        taken = Provisioning.objects.filter(machine__machine_id=seen.id)
        assert taken.count() == 1


def test_one_too_many_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(
        machines, "delete_at_provider", lambda machine, **_: ended.append(machine.machine_id)
    )
    for number in range(ROUNDS):
        row = queued(f"vm-{number}")
        seen = [base.Machine(f"m-{number}-{who}", base.MachineState.RUNNING) for who in range(2)]
        found = together(
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


def test_one_of_retry_and_cancel_wins() -> None:
    for number in range(ROUNDS):
        row = queued(f"vm-{number}")
        row.move(State.RUNNING)
        step = row.steps.get(name=StepName.RESOLVE)
        step.move(StepState.RUNNING)
        step.move(StepState.FAILED)
        row.move(State.FAILED)
        together(
            lambda who, key=row.pk: (  # type: ignore[misc]
                services.retry(key, by="t")
                if who
                else services.cancel(key, CleanupPolicy.DELETE, by="t")
            ),
            2,
        )
        assert Provisioning.objects.get(pk=row.pk).state in (State.QUEUED, State.CANCELLING)
