"""A lieutenant on a VM that is provisioned for it, beside a complete reef."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.bootloader.provisioning_stack import BARE, BootStack
from tests.emulator.handle import Emulator
from tests.waiting import until

PATH = "/lieutenant/lieutenants/far"


@pytest.fixture
def stack(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootStack]:
    folder = tmp_path_factory.mktemp("profile")
    with BootStack(folder, emulator, REEF_LIEUTENANT_PROFILE="bare") as running:
        running.manage("shell", "-c", BARE)
        yield running


def in_status(stack: BootStack, status: str, seconds: float = 120) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        row: dict[str, Any] = stack.client.get(PATH).json()
        assert status == "error" or row["status"] != "error", row["error"]
        return row if row["status"] == status else None

    row: dict[str, Any] = until(found, seconds)
    return row


@pytest.mark.timeout(300)
def test_vm_is_made_by_the_usual_profile_and_ends_with_its_lieutenant(
    stack: BootStack, emulator: Emulator
) -> None:
    body = {"name": "far", "role": "r", "local": False, "agent": "command"}
    command = ["sh", "-c", "cat /etc/vm_id; cat"]
    made = stack.client.post("/lieutenant/lieutenants", json={**body, "command": command})
    assert made.status_code == 201, made.text
    assert made.json()["status"] == "starting"
    row = in_status(stack, "idle")
    (vm,) = emulator.vms()
    assert row["vmId"] == vm["vm_id"]
    steps = [each["name"] for each in row["startSteps"]]
    provisioned = ("resolve", "create", "ssh", "identity", "upload", "run", "join", "health")
    assert steps == [
        *(f"provision-{name}" for name in provisioned),
        *("vm", "ssh", "identity", "keeper", "agent", "ready"),
    ]
    assert stack.post(f"{PATH}/send", {"message": "hello"}).status_code == 200
    until(lambda: stack.client.get(PATH).json()["outputHistory"], 30)
    assert stack.client.get(PATH).json()["outputHistory"] == [f"{vm['vm_id']}\nhello"]
    registered = stack.client.get(f"/registry/vms/{row['id']}").json()
    assert registered["parentVmId"] == vm["vm_id"]

    assert stack.client.delete(PATH).status_code == 200
    until(lambda: not emulator.vms(), 60)
    paths = [
        f"{place}/vms/{vm_id}"
        for place in ("/vm-tree", "/registry")
        for vm_id in (row["id"], vm["vm_id"])
    ]
    until(lambda: {stack.client.get(path).status_code for path in paths} == {404})
