"""From a request to a member of the fleet and to its end, beside an emulated platform."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.bootloader.provisioning_stack import BARE, BootStack
from tests.emulator.fixture import emulator, emulator_of_the_run
from tests.emulator.handle import Emulator
from tests.stack import TOKEN
from tests.waiting import until

__all__ = ["emulator", "emulator_of_the_run"]

pytestmark = pytest.mark.timeout(600)

MODEL_KEY = "sk-a-key-that-nobody-may-see-0123456789"


@pytest.fixture(scope="module")
def stack(
    emulator_of_the_run: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BootStack]:
    folder = tmp_path_factory.mktemp("boot")
    with BootStack(folder, emulator_of_the_run) as running:
        running.manage("shell", "-c", BARE)
        yield running


def run_operation(stack: BootStack, verb: str, vm_id: str) -> None:
    """Run an operation on a subtree and wait until its job has ended."""
    job = stack.post(f"/vm-tree/vms/{vm_id}/{verb}").json()["job"]

    def ended() -> Any:
        found = stack.client.get(f"/vm-tree/jobs/{job['id']}").json()
        return found if found["job"]["state"] != "open" else None

    found = until(ended, 60)
    assert found["job"]["state"] == "done", found
    assert [step["handler"] for step in found["plan"]] == ["machine"]


def state_of(emulator: Emulator, vm_id: str) -> str:
    return next((str(vm["state"]) for vm in emulator.vms() if vm["vm_id"] == vm_id), "gone")


def test_vm_is_provisioned_paused_resumed_and_destroyed(
    stack: BootStack, emulator: Emulator
) -> None:
    made = stack.wait(stack.provision("one", "bare")["id"])
    vm_id = made["vmId"]
    assert made["state"] == "done", stack.log(made["id"])
    assert stack.client.get(f"/registry/vms/{vm_id}").json()["liveness"] == "live"
    assert stack.provision("one", "bare")["id"] == made["id"]

    run_operation(stack, "pause", vm_id)
    assert state_of(emulator, vm_id) == "paused"
    assert stack.client.get(f"/registry/vms/{vm_id}").json()["status"] == "paused"
    run_operation(stack, "resume", vm_id)
    assert state_of(emulator, vm_id) == "running"
    run_operation(stack, "destroy", vm_id)
    assert state_of(emulator, vm_id) == "gone"
    assert stack.client.get(f"/vm-tree/vms/{vm_id}").status_code == 404

    again = stack.wait(stack.provision("one", "bare")["id"])
    assert again["id"] != made["id"], "the name is free again"
    assert again["vmId"] != vm_id


def test_equal_concurrent_requests_get_one_vm(stack: BootStack, emulator: Emulator) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = list(pool.map(lambda _: stack.provision("shared", "bare"), range(8)))
    assert len({each["id"] for each in asked}) == 1
    assert stack.wait(asked[0]["id"])["state"] == "done"
    assert [vm["labels"]["reef-name"] for vm in emulator.vms()] == ["shared"]


@pytest.mark.rotated
@pytest.mark.parametrize("leftover", ["keep", "delete"])
def test_cancelled_vm_is_kept_or_deleted(
    stack: BootStack, emulator: Emulator, leftover: str
) -> None:
    emulator.set(boot_delay_s=8)
    made = stack.provision(f"cancelled-{leftover}", "bare")
    until(lambda: stack.step(made["id"]) == "ssh", 30)
    body = {"machine": leftover}
    stack.post(f"/bootloader/provisionings/{made['id']}/cancel", body)

    found = stack.wait(made["id"], "cancelled")

    assert len(emulator.vms()) == (1 if leftover == "keep" else 0)
    machines = stack.client.get("/bootloader/machines").json()["machines"]
    kept = [each["machineId"] for each in machines if each["machineId"] == found["machineId"]]
    assert len(kept) == len(emulator.vms()), "a VM that is kept is not forgotten"
    assert stack.provision(f"cancelled-{leftover}", "bare")["id"] != made["id"]
    emulator.clear_faults()


def test_cancelling_deletes_a_vm_whose_creation_response_was_lost(
    stack: BootStack, emulator: Emulator
) -> None:
    emulator.fail("new_root", status=503, done=True, after_s=2)
    made = stack.provision("lost", "bare")
    until(lambda: stack.step(made["id"]) == "create", 30)
    stack.post(f"/bootloader/provisionings/{made['id']}/cancel", {"machine": "delete"})
    assert stack.wait(made["id"], "cancelled", seconds=90)["state"] == "cancelled"
    assert not vms_of(emulator, "lost"), stack.log(made["id"])


def vms_of(emulator: Emulator, name: str) -> list[dict[str, Any]]:
    """Return the VMs made under this name; others may still be starting or be kept."""
    return [vm for vm in emulator.vms() if vm["labels"].get("reef-name") == name]


@pytest.mark.thorough
def test_failed_vm_is_deleted_if_that_policy_was_chosen(
    stack: BootStack, emulator: Emulator
) -> None:
    # The script cannot reach the root at this address.
    nowhere = f"http://{stack.host}:9"
    wish = {"roofReefUrl": nowhere, "onFailure": "delete"}
    made = stack.wait(stack.provision("nowhere", "bare", **wish)["id"])
    assert made["state"] == "failed"
    assert "the script ended with status" in made["reason"]
    until(lambda: not vms_of(emulator, "nowhere"), 20)


@pytest.mark.thorough
def test_vms_are_provisioned_below_vms_and_concurrently(
    stack: BootStack, emulator: Emulator
) -> None:
    top = stack.wait(stack.provision("top", "bare")["id"])
    body = {"name": "leaf", "type": "bare", "parentVmId": top["vmId"], "count": 3}
    asked = stack.post("/bootloader/provision", body).json()["provisionings"]
    for each in asked:
        assert stack.wait(each["id"])["state"] == "done", stack.log(each["id"])
    found = stack.client.get(f"/vm-tree/vms/{top['vmId']}/children").json()["children"]
    assert sorted(node["name"] for node in found) == ["leaf-1", "leaf-2", "leaf-3"]


def test_no_secret_is_left_anywhere(stack: BootStack, emulator: Emulator) -> None:
    """Search for the keys of platform and model, tokens and private SSH keys."""
    put = stack.client.put("/vers-config/OPENAI_API_KEY", json={"value": MODEL_KEY})
    assert put.status_code == 200, put.text
    made = stack.provision("discreet", "bare")
    seen: list[str] = []

    def ended() -> bool:
        seen.append(command_lines())
        return stack.fetch(made["id"])["state"] in ("done", "failed")

    until(ended, 120)
    assert stack.fetch(made["id"])["state"] == "done", stack.log(made["id"])
    secrets = [MODEL_KEY, emulator.key]
    told = "\n".join(seen) + stack.log(made["id"])
    for secret in [*secrets, TOKEN]:
        assert secret not in told
    assert not re.search(r"reef(join)?_[A-Za-z0-9_-]{40,}", told)
    for file in files_of(stack.data):
        content = file.read_bytes()
        for secret in secrets:
            assert secret.encode() not in content, file
            # In the database file, the name of a migration follows the name of its app directly.
            names = content.replace(b"reef_site", b"")
            assert not re.search(rb"reef(join)?_[A-Za-z0-9_-]{40,}", names), file
        assert b"PRIVATE KEY-----" not in content or file.stat().st_mode & 0o077 == 0, file


def files_of(folder: Path) -> list[Path]:
    """Return the databases, logs and journals of reef, without the code that it distributes."""
    found = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return [file for file in found if "dist" not in file.relative_to(folder).parts]


def command_lines() -> str:
    """Return the command lines of all processes on this machine, including those of the VMs."""
    mine = str(os.getpid())
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        if entry.parent.name != mine:
            try:
                lines.append(entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            except OSError:
                continue
    return "\n".join(lines)
