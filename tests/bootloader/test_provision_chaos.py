"""Kills, cuts and failures while VMs come up: in the end each VM exists exactly once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from bootloader.states import StepName
from tests.bootloader.provisioning_stack import BARE, BootStack
from tests.emulator.fixture import emulator, emulator_of_the_run
from tests.emulator.handle import Emulator
from tests.stack import pause
from tests.waiting import until

__all__ = ["emulator", "emulator_of_the_run"]

pytestmark = pytest.mark.timeout(600)

SECONDS = 240.0


@pytest.fixture(scope="module")
def stack(
    emulator_of_the_run: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BootStack]:
    folder = tmp_path_factory.mktemp("boot")
    with BootStack(folder, emulator_of_the_run, REEF_PROVISION_AT_ONCE="8") as running:
        running.manage("shell", "-c", BARE)
        yield running


def with_thorough_rest(everything: Sequence[Any], always: Sequence[Any]) -> list[Any]:
    """Return all values as parameters; those not in `always` are marked as thorough."""
    rest = pytest.mark.thorough
    return [each if each in always else pytest.param(each, marks=rest) for each in everything]


@contextmanager
def provisioning_stopped_in(stack: BootStack, prefix: str, name: str) -> Iterator[str]:
    """Provide the id of a provisioning whose worker is in this step, and stop all writes.

    Some steps are over within a millisecond; in that case, request another VM.
    """
    base = sqlite3.connect(stack.data / "db.sqlite3", timeout=0, isolation_level=None)
    try:
        for number in range(8):
            made = stack.provision(f"{prefix}-{name}-{number}", "bare")
            if _lock_database_during_step(base, made["id"], name):
                break
        else:
            raise AssertionError(f"the step {name} was never seen running")
        yield made["id"]
        base.execute("ROLLBACK")
    finally:
        base.close()


def _lock_database_during_step(base: sqlite3.Connection, provisioning_id: str, name: str) -> bool:
    """Lock the database while this step runs. Return False if the step is already over."""
    sql = "SELECT state FROM bootloader_bootstep WHERE provisioning_id = ? AND name = ?"
    seen = ""

    def is_over() -> bool:
        nonlocal seen
        # No pause between attempts, so that the next writer has to wait for this lock.
        for _ in range(3000):
            with suppress(sqlite3.OperationalError):
                base.execute("BEGIN IMMEDIATE")
                (seen,) = base.execute(sql, [provisioning_id, name]).fetchone()
                if seen == "running":
                    return True
                base.execute("ROLLBACK")
        return seen in ("done", "failed")

    until(is_over, 90)
    return seen == "running"


def check_one_vm(stack: BootStack, found: dict[str, Any]) -> None:
    """Check that the provisioning is done and that all three lists contain its VM once."""
    assert found["state"] == "done", stack.log(found["id"])
    mine = [vm for vm in stack.emulator.vms() if vm["labels"].get("reef-name") == found["name"]]
    assert [vm["vm_id"] for vm in mine] == [found["machineId"]], stack.log(found["id"])
    assert stack.client.get(f"/vm-tree/vms/{found['vmId']}").json()["name"] == found["name"]
    assert stack.client.get(f"/registry/vms/{found['vmId']}").json()["liveness"] == "live"


@pytest.mark.rotated
@pytest.mark.parametrize("name", with_thorough_rest(list(StepName), [StepName.RUN]))
def test_provisioning_survives_a_worker_killed_in_a_step(
    stack: BootStack, emulator: Emulator, name: StepName
) -> None:
    if name == StepName.CREATE:
        emulator.set(latency_ms=300)
    with provisioning_stopped_in(stack, "killed-in", name) as made:
        stack.kill("worker")
    emulator.clear_faults()
    stack.start("worker")

    check_one_vm(stack, stack.wait(made, seconds=SECONDS))


@pytest.mark.thorough
def test_provisioning_survives_repeated_kills_of_the_worker(
    stack: BootStack, emulator: Emulator
) -> None:
    emulator.set(boot_delay_s=1.0, latency_ms=100)
    made = [stack.provision(f"often-{number}", "bare") for number in range(4)]
    for _ in range(3):
        pause(1.5)
        stack.kill("worker")
        stack.start("worker")
    emulator.clear_faults()
    for each in made:
        check_one_vm(stack, stack.wait(each["id"], seconds=SECONDS))


@pytest.mark.rotated
@pytest.mark.parametrize("name", with_thorough_rest(list(StepName), [StepName.RUN]))
def test_provisioning_survives_a_network_failure_in_a_step(
    stack: BootStack, emulator: Emulator, name: StepName
) -> None:
    with provisioning_stopped_in(stack, "cut-in", name) as made:
        # Neither the platform's API nor any VM can be reached.
        emulator.set(ssh_cut=True)
        emulator.cut_connections()
        emulator.fail("*", status=503, times=6)
    pause(4)
    emulator.clear_faults()

    found = stack.wait(made, seconds=SECONDS)
    if found["state"] == "failed":
        stack.retry(made)
        found = stack.wait(made, seconds=SECONDS)
    check_one_vm(stack, found)


FAULTS: list[dict[str, Any]] = [
    {"op": "new_root", "status": 500},
    {"op": "new_root", "status": 503},
    {"op": "new_root", "status": 503, "done": True},
    {"op": "new_root", "status": 500, "done": True},
    {"op": "new_root", "status": 429},
    {"op": "ssh_key", "status": 500},
    {"op": "list_vms", "status": 503},
    {"op": "vm_status", "status": 500},
    {"op": "*", "status": 503, "times": 3},
    {"op": "*", "status": 429, "times": 3},
]


@pytest.mark.rotated
@pytest.mark.parametrize("fault", with_thorough_rest(FAULTS, FAULTS[2:3]), ids=json.dumps)
def test_provisioning_survives_a_platform_fault(
    stack: BootStack, emulator: Emulator, fault: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    name = f"fails-{FAULTS.index(fault)}"
    emulator.fail(**fault)
    made = stack.provision(name, "bare")
    found = stack.wait(made["id"], seconds=SECONDS)
    if found["state"] == "failed":
        stack.retry(made["id"])
        found = stack.wait(made["id"], seconds=SECONDS)
    check_one_vm(stack, found)


@pytest.mark.rotated
def test_a_vm_that_fails_to_boot_is_replaced_by_a_retry(
    stack: BootStack, emulator: Emulator
) -> None:
    emulator.set(fail_boots=1, boot_delay_s=0.5)
    made = stack.provision("no-boot", "bare")
    found = stack.wait(made["id"], seconds=SECONDS)
    assert found["state"] == "failed"
    assert "gone" in found["reason"]

    stack.retry(made["id"])
    check_one_vm(stack, stack.wait(made["id"], seconds=SECONDS))


@pytest.mark.thorough
def test_vm_that_crashes_during_its_script_is_replaced_by_a_retry(
    stack: BootStack, emulator: Emulator
) -> None:
    with provisioning_stopped_in(stack, "crashes", StepName.RUN) as made:
        emulator.crash(stack.fetch(made)["machineId"])
    found = stack.wait(made, seconds=SECONDS)
    if found["state"] == "failed":
        stack.post(f"/bootloader/provisionings/{made}/cancel", {"machine": "delete"})
        assert stack.wait(made, "cancelled")["state"] == "cancelled"
        assert not [vm for vm in emulator.vms() if vm["vm_id"] == found["machineId"]]
