"""A machine that the operator already has becomes a member of the fleet, and is given back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bootloader.providers.base import Login
from bootloader.providers.ssh import shell
from tests.bootloader.provisioning_stack import BARE, BootStack
from tests.emulator.fixture import emulator, emulator_of_the_run
from tests.emulator.handle import Emulator
from tests.waiting import until

__all__ = ["emulator", "emulator_of_the_run"]

HOST = """
from bootloader.models import SshHost
host = SshHost(name="cellar", address={address!r}, user="root")
host.set_key({key!r})
host.save()
"""


@pytest.fixture(scope="module")
def stack(
    emulator_of_the_run: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BootStack]:
    folder = tmp_path_factory.mktemp("boot")
    with BootStack(folder, emulator_of_the_run) as running:
        running.manage("shell", "-c", BARE)
        yield running


def machine_of(emulator: Emulator) -> Login:
    """Return the login of one of the emulator's VMs at its own address."""
    api = httpx.Client(
        base_url=f"{emulator.url}/api/v1",
        headers={"authorization": f"Bearer {emulator.key}"},
        timeout=60,
    )
    vm_id = api.post("/vm/new_root?wait_boot=true", json={"vm_config": {}}).json()["vm_id"]
    key = api.get(f"/vm/{vm_id}/ssh_key").json()["ssh_private_key"]
    return Login(emulator.vms()[0]["ip"], 22, "root", key)


def run(there: Login, command: str) -> str:
    with shell.connect(there) as session:
        return session.run(command, timeout=20).output.decode().strip()


@pytest.mark.rotated
def test_host_is_provisioned_and_released(stack: BootStack, emulator: Emulator) -> None:
    # One of the emulator's VMs serves as the host.
    there = machine_of(emulator)
    if there.host.startswith("127.") or there.host == "::1":
        pytest.skip("machines have no addresses of their own here")
    run(there, "rm -f /etc/vm_id /etc/vminfo")
    stack.manage("shell", "-c", HOST.format(address=there.host, key=there.private_key))

    refused = stack.wait(stack.provision("no", "bare", provider="ssh", commitId="golden")["id"])
    assert refused["state"] == "failed"
    assert "cannot restore a commit" in refused["reason"]

    wish = {"name": "member", "kind": "bare", "provider": "ssh"}
    made = stack.wait(stack.provision(**wish)["id"])
    assert made["state"] == "done", stack.log(made["id"])
    facts = stack.client.get(f"/registry/vms/{made['vmId']}").json()
    assert facts["liveness"] == "live"
    assert len(emulator.vms()) == 1, "nothing was made at the platform"
    assert made["vmId"] in run(there, "grep -rhs VERS_VM_ID /opt/reef")

    second = stack.wait(stack.provision("second", "bare", provider="ssh")["id"], seconds=60)
    assert second["state"] == "failed"
    assert "All 1 SSH hosts are in use" in second["reason"]

    paused = run_operation(stack, "pause", made["vmId"])
    assert "ssh machines cannot be paused" in str(paused), paused
    gone = run_operation(stack, "destroy", made["vmId"])
    assert gone["job"]["state"] == "done", gone
    assert stack.client.get(f"/vm-tree/vms/{made['vmId']}").status_code == 404
    assert run(there, "echo up") == "up", "the host itself stays"
    assert run(there, "pgrep -f [f]leet_agent.py || echo nobody") == "nobody"
    assert run(there, "cat /opt/reef/identity.json 2>/dev/null || echo nobody") == "nobody"

    secrets = r"grep -rlsE 'reef(join)?_[A-Za-z0-9_-]{20,}' /opt/reef $HOME/.reef-boot || echo none"
    assert run(there, secrets) == "none"

    again = stack.wait(stack.provision("again", "bare", provider="ssh")["id"])
    assert again["state"] == "done", stack.log(again["id"])
    assert again["vmId"] != made["vmId"]
    assert again["vmId"] in run(there, "grep -rhs VERS_VM_ID /opt/reef")


def run_operation(stack: BootStack, verb: str, vm_id: str) -> Any:
    """Run an operation on a subtree and wait until its job has ended."""
    answer = stack.post(f"/vm-tree/vms/{vm_id}/{verb}").json()
    if "job" not in answer:
        return answer

    def ended() -> Any:
        found = stack.client.get(f"/vm-tree/jobs/{answer['job']['id']}").json()
        return found if found["job"]["state"] != "open" else None

    return until(ended, 60)
