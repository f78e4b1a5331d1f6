"""A running reef that fleet agents, started as separate processes, connect to."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

import httpx

from bootloader.join import fleet_agent_file
from tests.stack import ROOT, Stack
from tests.waiting import until

# The fleet agent as VMs download it.
AGENT = Path(tempfile.mkdtemp(prefix="reef-fleet-agent-")) / "fleet_agent.py"
AGENT.write_bytes(fleet_agent_file.build(ROOT / "bootloader" / "fleet_agent"))
atexit.register(shutil.rmtree, AGENT.parent, ignore_errors=True)

_ISSUE = """
import json, sys
from bootloader.join import tokens as join_tokens
print(join_tokens.issue(by="tests", **json.loads(sys.argv[1])))
"""


class RootStack(Stack):
    """A reef with web and edge, which is all that fleet agents need; it has no worker."""

    def __enter__(self) -> Self:
        self.manage("migrate", "--verbosity", "0")
        for name in ("redis", "web", "edge"):
            self.start(name)
        until(self.is_responding, 30)
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("edge", "web", "redis"):
            self.end(name)
        self.client.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def issue_join_token(self, vm_id: str, **other: Any) -> str:
        """Issue a join token in a process of this reef."""
        values = {
            "vm_id": vm_id,
            "name": f"name of {vm_id}",
            "profile": "swarm",
            "category": "swarm_vm",
            "role": "worker",
            "parent_vm_id": None,
            **other,
        }
        program = "import django; django.setup()" + _ISSUE
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps(values)],
            cwd=ROOT,
            env={**self.env, "DJANGO_SETTINGS_MODULE": "reef_site.settings"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def vm(self, vm_id: str) -> dict[str, Any]:
        """Return the registry's JSON of a VM; empty if it is unknown."""
        answer = self.client.get(f"/registry/vms/{vm_id}")
        facts: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return facts

    def is_valid_token(self, token: str) -> bool:
        """Return whether this token authorizes any request."""
        headers = {"authorization": f"Bearer {token}"}
        return httpx.get(f"{self.url}/registry/vms", headers=headers).status_code == 200


class FleetMember:
    """A home folder with an identity file, and the fleet agent that uses it."""

    def __init__(self, home: Path, url: str, python: str = sys.executable, **identity: str) -> None:
        self.home, self.python = home, python
        self.identity_file = home / "identity.json"
        home.mkdir(mode=0o700, parents=True)
        self.write({"VERS_INFRA_URL": url, **identity})
        self.process: subprocess.Popen[bytes] | None = None
        self.log = home / "log.txt"

    def write(self, identity: dict[str, str]) -> None:
        self.identity_file.touch(0o600)
        self.identity_file.write_text(json.dumps(identity))

    def identity(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.identity_file.read_text())
        return found

    def update_identity(self, **identity: str) -> None:
        self.write({**self.identity(), **identity})

    @property
    def token(self) -> str:
        return self.identity().get("VERS_AUTH_TOKEN", "")

    def state(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.home / "run/fleet-agent.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def argv(self, verb: str, *more: str) -> list[str]:
        return [self.python, str(AGENT), verb, "--home", str(self.home), *more]

    def run_agent(self, verb: str, *more: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        return subprocess.run(
            self.argv(verb, *more), env=env, capture_output=True, text=True, timeout=60
        )

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv("run"),
                env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def end(self) -> int:
        """Send SIGTERM, as systemd does, and return the exit code."""
        if self.process is None:
            return 0
        self.process.terminate()
        return self.process.wait(15)

    def wait_for_heartbeat(self, seconds: float = 20.0) -> dict[str, Any]:
        """Wait until the agent has recorded a new heartbeat; return its state."""
        previous = self.state().get("lastBeatAt", 0)

        def is_recorded() -> bool:
            state = self.state()
            return state.get("lastBeatAt", 0) > previous and not state.get("problem")

        try:
            until(is_recorded, seconds)
        except AssertionError:
            raise AssertionError(f"no heartbeat: {self.state()}\n{self.log_text()}") from None
        return self.state()
