"""A direct client of the emulated platform, for tests of the emulator itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.emulator.handle import Emulator


class PlatformClient:
    """HTTP with the key, and OpenSSH as any client of the platform uses it."""

    def __init__(self, emulator: Emulator, folder: Path, key: str | None = None) -> None:
        self.emulator, self.folder = emulator, folder
        headers = {"authorization": f"Bearer {key or emulator.key}"}
        base = f"{emulator.url}/api/v1"
        self.http = httpx.Client(base_url=base, headers=headers, timeout=60)

    def create(self, **config: Any) -> str:
        """Create a VM and wait for its boot."""
        answer = self.http.post("/vm/new_root?wait_boot=true", json={"vm_config": config})
        assert answer.status_code == 201, answer.text
        vm_id: str = answer.json()["vm_id"]
        return vm_id

    def commit(self, vm_id: str, query: str = "") -> str:
        """Commit a VM and return the commit's id."""
        answer = self.http.post(f"/vm/{vm_id}/commit{query}")
        assert answer.status_code == 201, answer.text
        commit_id: str = answer.json()["commit_id"]
        return commit_id

    def restore(self, commit_id: str) -> str:
        """Create a VM from a commit."""
        answer = self.http.post("/vm/from_commit", json={"commit_id": commit_id})
        assert answer.status_code == 201, answer.text
        vm_id: str = answer.json()["vm_id"]
        return vm_id

    def state(self, vm_id: str) -> str:
        """Return the VM's state; "gone" if it does not exist."""
        answer = self.http.get(f"/vm/{vm_id}/status")
        return str(answer.json()["state"]) if answer.status_code == 200 else "gone"

    def set_state(self, vm_id: str, state: str) -> None:
        """Pause or resume."""
        answer = self.http.patch(f"/vm/{vm_id}/state", json={"state": state})
        assert (answer.status_code, answer.content) == (200, b"")
        assert "content-type" not in answer.headers

    def pem(self, vm_id: str) -> str:
        """Return the VM's private key."""
        found: str = self.http.get(f"/vm/{vm_id}/ssh_key").json()["ssh_private_key"]
        return found

    def run(self, vm_id: str, command: str) -> str:
        """Run a command over SSH, which must succeed, and return its output."""
        code, output = self.ssh(vm_id, command)
        assert code == 0, output
        return output.strip()

    def ssh(
        self, vm_id: str, command: str, pem: str | None = None, stdin: bytes = b""
    ) -> tuple[int, str]:
        """Run a command with OpenSSH's client. Return the exit code, and output with errors."""
        done = subprocess.run(
            [*self.ssh_argv(vm_id, pem), command],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout.decode()

    def ssh_argv(self, vm_id: str, pem: str | None = None, program: str = "ssh") -> list[str]:
        """Return the command line of a connection with SNI, TLS and the VM's key."""
        here, key = self.emulator, self.folder / f"{vm_id}.pem"
        key.write_text(pem or self.pem(vm_id))
        key.chmod(0o600)
        address = f"-connect {here.gateway_host}:{here.gateway_port} -servername %h"
        trust = f"-CAfile {here.ca_file} -verify_hostname %h -verify_return_error"
        options = {
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
            "ProxyCommand": f"openssl s_client {address} {trust} -quiet 2>/dev/null",
        }
        words = [word for pair in options.items() for word in ("-o", "=".join(pair))]
        target = f"{here.user}@{vm_id}.{here.domain}"
        return [program, "-F", "none", "-i", str(key), *words, target]
