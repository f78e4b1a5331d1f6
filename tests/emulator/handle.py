"""A handle on an emulator that runs as a separate process and is controlled over HTTP only."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import httpx

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0
EXIT_FOLDER_IN_USE = 75


class Emulator:
    """A running emulator. Use as a context manager, or call `start` and `stop`.

    Clients need the attributes `url` (without /api/v1), `key`, `gateway_host`, `gateway_port`,
    `ca_file`, `domain`, `user` and `bridge_address` (where VMs reach this machine). With `check`,
    the emulator compares all responses with openapi.yaml; `violations()` lists the differences.
    Without a `state`, it uses a folder that an earlier test run may have left, and cleans it up.
    """

    def __init__(
        self, state: Path | None = None, *, mode: str = "auto", check: bool = True
    ) -> None:
        self.state = state or _unused_folder()
        self._options = ["--mode", mode, "--end-with-parent"]
        self._options += ["--check"] if check else []
        self._options += [] if state else ["--temporary"]
        self._connection_info: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None
        # Plain HTTP on the loopback: no certificates, no proxies.
        self._http = httpx.Client(timeout=120, verify=False, trust_env=False)

    # -- start and stop

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the emulator and wait until it responds; also after `kill`, on the same state."""
        for _ in range(20):
            if self._try_to_start():
                return self
            # Another process has taken the folder.
            self.state = _unused_folder()
        raise AssertionError("no folder is free for the emulator")

    def _try_to_start(self) -> bool:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        port_file = self.state / f"where-{secrets.token_hex(4)}.json"
        argv = [sys.executable, "-m", "reef_site.demo.platform", "--state", str(self.state)]
        argv += ["--port-file", str(port_file), *self._options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS * PATIENCE
        while not port_file.exists():
            if self.process.poll() == EXIT_FOLDER_IN_USE and "--temporary" in self._options:
                return False
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the emulator did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)
        self._connection_info = json.loads(port_file.read_text())
        return True

    def stop(self) -> None:
        """Stop the emulator with all its VMs. A temporary state folder is removed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the emulator without cleanup; `start` on the same state cleans up."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process and self.process.poll() is None:
            os.kill(self.process.pid, number)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    @property
    def log(self) -> Path:
        """Return the file with its output."""
        return self.state / "emulator.log"

    # -- connection

    def __getattr__(self, name: str) -> Any:
        info = self.__dict__.get("_connection_info", {})
        if name in info:
            return info[name]
        raise AttributeError(name)

    def environment(self) -> dict[str, str]:
        """Return environment variables that make a reef use this emulator."""
        return {
            "VERS_API_KEY": self.key,
            "VERS_BASE_URL": self.url,
            "REEF_SSH_GATEWAY": self.gateway_host,
            "REEF_SSH_PORT": str(self.gateway_port),
            "REEF_SSH_DOMAIN": self.domain,
            "REEF_SSH_CA_FILE": self.ca_file,
            "REEF_SSH_USER": self.user,
        }

    # -- control

    def set(self, **switches: Any) -> None:
        """Set switches, which reef_site/demo/platform/faults.py lists."""
        self._request("PATCH", "/emulator/switches", switches)

    def fail(self, op: str, **fault: Any) -> None:
        """Make calls of an operation fail; `Fault` lists the parameters."""
        self._request("POST", "/emulator/faults", {"op": op, **fault})

    def clear_faults(self) -> None:
        """Reset all switches and remove all faults."""
        self._request("POST", "/emulator/heal")

    def reset(self) -> None:
        """Remove all VMs, commits, tags and faults."""
        self._request("POST", "/emulator/reset")

    def state_of_platform(self) -> dict[str, Any]:
        """Return switches, faults, violations, and the VMs of all organisations."""
        found: dict[str, Any] = self._request("GET", "/emulator")
        return found

    def vms(self) -> list[dict[str, Any]]:
        """Return all VMs: vm_id, state, ip, labels, parent_commit_id."""
        found: list[dict[str, Any]] = self.state_of_platform()["vms"]
        return found

    def violations(self) -> list[str]:
        """Return the differences between responses and openapi.yaml."""
        found: list[str] = self.state_of_platform()["violations"]
        return found

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests so far: op, method, path, status, milliseconds, request_id, at."""
        found: list[dict[str, Any]] = self._request("GET", "/emulator/heard")
        return found

    def create_key(self, org: str | None = None) -> str:
        """Return a new key of the same organisation, or of another one."""
        made: str = self._request("POST", "/emulator/keys", {"org": org})["key"]
        return made

    def cut_connections(self, vm_id: str | None = None) -> int:
        """Abort open SSH connections, all or those of one VM, and return their number."""
        hit: int = self._request("POST", "/emulator/cut", {"vm_id": vm_id})["cut"]
        return hit

    def set_cable(self, vm_id: str, *, up: bool) -> None:
        """Disconnect a VM's network cable or connect it again; not in plain mode."""
        self._request("PATCH", f"/emulator/vm/{vm_id}/cable", {"up": up})

    def crash(self, vm_id: str) -> None:
        """End all processes of a VM; the API then reports `dead`."""
        self._request("POST", f"/emulator/vm/{vm_id}/crash")

    def _request(self, method: str, path: str, body: object = None) -> Any:
        headers = {"authorization": f"Bearer {self.key}"}
        response = self._http.request(method, f"{self.url}{path}", json=body, headers=headers)
        if response.status_code >= 400:
            raise AssertionError(f"{path}: {response.status_code} {response.text}")
        return response.json() if response.content else None


def _unused_folder() -> Path:
    """Return the first of the numbered folders that no emulator uses."""
    row = Path(tempfile.gettempdir()) / f"vme-{os.getuid()}"
    number = 0
    while _is_locked(row / str(number) / "lock"):
        number += 1
    return row / str(number)


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
