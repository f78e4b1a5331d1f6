"""The emulated platform's VMs are real: they boot, let one in by SSH, and go without a trace."""

from __future__ import annotations

import io
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import paramiko
import pytest

from tests.emulator.handle import Emulator


@pytest.fixture
def platform(emulator: Emulator) -> Iterator[httpx.Client]:
    """A bare client with the key."""
    headers = {"authorization": f"Bearer {emulator.key}"}
    with httpx.Client(base_url=f"{emulator.url}/api/v1", headers=headers, timeout=60) as client:
        yield client


def create(platform: httpx.Client, **config: Any) -> str:
    answer = platform.post("/vm/new_root?wait_boot=true", json={"vm_config": config})
    assert answer.status_code == 201, answer.text
    vm_id: str = answer.json()["vm_id"]
    return vm_id


def ssh(emulator: Emulator, platform: httpx.Client, vm_id: str, command: str) -> tuple[int, str]:
    """Run something as any client does: TLS with the VM's name, SSH inside, the VM's own key."""
    pem = platform.get(f"/vm/{vm_id}/ssh_key").json()["ssh_private_key"]
    trust = ssl.create_default_context(cafile=emulator.ca_file)
    plain = socket.create_connection((emulator.gateway_host, emulator.gateway_port), 10)
    inside = trust.wrap_socket(plain, server_hostname=f"{vm_id}.{emulator.domain}")
    transport = paramiko.Transport(inside)
    try:
        transport.start_client(timeout=10)
        key = paramiko.Ed25519Key.from_private_key(io.StringIO(pem))
        transport.auth_publickey(emulator.user, key)
        channel = transport.open_session()
        channel.exec_command(command)
        output = channel.makefile().read().decode()
        return channel.recv_exit_status(), output
    finally:
        transport.close()


def test_a_vm_boots_and_lets_its_key_in(emulator: Emulator, platform: httpx.Client) -> None:
    vm_id = create(platform, labels={"for": "a test"})

    assert platform.get(f"/vm/{vm_id}/status").json()["state"] == "running"
    assert platform.get("/vms").json()[0]["labels"] == {"for": "a test"}
    assert ssh(emulator, platform, vm_id, "cat /etc/vm_id; exit 3") == (3, f"{vm_id}\n")


def test_a_deleted_vm_is_gone(emulator: Emulator, platform: httpx.Client) -> None:
    vm_id = create(platform)

    assert platform.delete(f"/vm/{vm_id}").json() == {"vm_id": vm_id}
    assert platform.get("/vms").json() == []
    assert platform.get(f"/vm/{vm_id}/status").status_code == 404
    assert platform.delete(f"/vm/{vm_id}").status_code == 403
