"""A complete reef with an emulated platform: VMs are requested over HTTP, and are real."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.emulator.handle import Emulator
from tests.stack import TOKEN, Stack
from tests.waiting import until

# A profile whose script is quick, because it downloads only the fleet agent.
BARE = """
from bootloader.models import OwnProfile
OwnProfile.objects.create(type="bare", organs=["store"], capabilities=[], agent=False,
    description="for tests", category="swarm_vm", role="worker", agent_role="bare")
"""
ON_VM = """
import json
from bootloader import providers
from bootloader.providers.ssh.connect import connect_machine
machine_id, command, stdin, seconds = json.loads(asked)
with connect_machine(providers.get("vers"), machine_id) as shell:
    ran = shell.run(command, stdin=stdin.encode(), timeout=seconds)
print((ran.output + ran.errors).decode(), end="")
"""
END_STATES = ("done", "failed", "cancelled")


class BootStack(Stack):
    """A reef at an address that the emulator's VMs can reach."""

    def __init__(self, folder: Path, emulator: Emulator, port: str = "", **env: str) -> None:
        self.emulator = emulator
        self.host = str(emulator.bridge_address)
        env |= {"REEF_ALLOWED_HOSTS": self.host, **emulator.environment()}
        super().__init__(folder, port=port, **env)
        self.env["VERS_INFRA_URL"] = f"http://{self.host}:{self.port}"
        self.client = httpx.Client(
            base_url=f"http://{self.host}:{self.port}",
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=60,
        )

    def _argv(self, name: str) -> list[str]:
        if name == "edge":
            words = ["-m", "reef_site.edge", "--host", self.host, "--port", str(self.port)]
            return [sys.executable, *words]
        return super()._argv(name)

    # -- provisioning ----------------------------------------------------------------------------

    def provision(self, name: str, kind: str = "lightweight", **fields: object) -> dict[str, Any]:
        """Request one VM and return the provisioning."""
        body = {"name": name, "type": kind, **fields}
        answer = self.client.post("/bootloader/provision", json=body)
        assert answer.status_code in (200, 202), answer.text
        found: dict[str, Any] = answer.json()["provisionings"][0]
        return found

    def fetch(self, provisioning_id: str) -> dict[str, Any]:
        """Return the current state of the provisioning."""
        answer = self.client.get(f"/bootloader/provisionings/{provisioning_id}")
        found: dict[str, Any] = answer.json()["provisioning"]
        return found

    def step(self, provisioning_id: str) -> str:
        """Return the name of the first step that is not done; empty if all are."""
        steps = self.fetch(provisioning_id)["steps"]
        return next((str(step["name"]) for step in steps if step["state"] != "done"), "")

    def wait(self, provisioning_id: str, *states: str, seconds: float = 240) -> dict[str, Any]:
        """Wait until the provisioning is in one of these states, or has ended, and return it."""

        def in_state() -> dict[str, Any] | None:
            found = self.fetch(provisioning_id)
            return found if found["state"] in (states or END_STATES) else None

        found: dict[str, Any] = until(in_state, seconds)
        return found

    def log(self, provisioning_id: str) -> str:
        """Return the complete log."""
        answer = self.client.get(f"/bootloader/provisionings/{provisioning_id}/log?limit=1000")
        lines = answer.json()["lines"]
        return "\n".join(f"{line['step'] or ''}: {line['text']}" for line in lines)

    def retry(self, provisioning_id: str) -> None:
        """Continue from the failed step."""
        answer = self.client.post(f"/bootloader/provisionings/{provisioning_id}/retry")
        assert answer.status_code == 202, answer.text

    def on_vm(self, machine_id: str, command: str, *, stdin: str = "", seconds: float = 120) -> str:
        """Run a command on a VM over SSH, as reef does, and return its output."""
        asked = json.dumps([machine_id, command, stdin, seconds])
        return self.manage("shell", "--verbosity", "0", "-c", f"asked = {asked!r}\n{ON_VM}")

    def post(self, path: str, body: object = None) -> httpx.Response:
        """Send JSON with the root token."""
        return self.client.post(path, json=body if body is not None else {})
