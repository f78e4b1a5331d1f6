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

# Its script takes a moment, and fetches nothing but the fleet agent.
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
AT_REST = ("done", "failed", "cancelled")


class BootStack(Stack):
    """A reef at the address where the emulator's VMs find it."""

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

    # -- what people and agents do ---------------------------------------------------------------

    def provision(self, name: str, kind: str = "lightweight", **fields: object) -> dict[str, Any]:
        """Ask for one VM; the provisioning."""
        body = {"name": name, "type": kind, **fields}
        answer = self.client.post("/bootloader/provision", json=body)
        assert answer.status_code in (200, 202), answer.text
        found: dict[str, Any] = answer.json()["provisionings"][0]
        return found

    def look(self, provisioning_id: str) -> dict[str, Any]:
        """The provisioning as it is now."""
        answer = self.client.get(f"/bootloader/provisionings/{provisioning_id}")
        found: dict[str, Any] = answer.json()["provisioning"]
        return found

    def step(self, provisioning_id: str) -> str:
        """The name of the step that is not done yet; empty at the end."""
        steps = self.look(provisioning_id)["steps"]
        return next((str(step["name"]) for step in steps if step["state"] != "done"), "")

    def wait(self, provisioning_id: str, *states: str, seconds: float = 240) -> dict[str, Any]:
        """Until it is in one of these states, or at rest; the provisioning."""

        def there() -> dict[str, Any] | None:
            found = self.look(provisioning_id)
            return found if found["state"] in (states or AT_REST) else None

        found: dict[str, Any] = until(there, seconds)
        return found

    def log(self, provisioning_id: str) -> str:
        """All of its log."""
        answer = self.client.get(f"/bootloader/provisionings/{provisioning_id}/log?limit=1000")
        lines = answer.json()["lines"]
        return "\n".join(f"{line['step'] or ''}: {line['text']}" for line in lines)

    def retry(self, provisioning_id: str) -> None:
        """Go on from the step that failed."""
        answer = self.client.post(f"/bootloader/provisionings/{provisioning_id}/retry")
        assert answer.status_code == 202, answer.text

    def on_vm(self, machine_id: str, command: str, *, stdin: str = "", seconds: float = 120) -> str:
        """Run a command on a VM by SSH, as reef does; what it printed."""
        asked = json.dumps([machine_id, command, stdin, seconds])
        return self.manage("shell", "--verbosity", "0", "-c", f"asked = {asked!r}\n{ON_VM}")

    def post(self, path: str, body: object = None) -> httpx.Response:
        """POST of JSON with the root token."""
        return self.client.post(path, json=body if body is not None else {})
