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

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0
TAKEN = 75


class Emulator:
    """A running emulator. Use as a context manager, or call `start` and `stop`.

    `url` (without /api/v1), `key`, `gateway_host`, `gateway_port`, `ca_file`, `domain`, `user` and
    `bridge_address` (where VMs reach this machine) are what a client needs. With `check`, every
    answer is compared with openapi.yaml; `violations()` tells what did not fit. Without a `state`
    it takes a folder that some earlier run of tests may have left, and so tidies up after that.
    """

    def __init__(
        self, state: Path | None = None, *, mode: str = "auto", check: bool = True
    ) -> None:
        self.state = state or _unused()
        self._words = ["--mode", mode, "--end-with-parent"]
        self._words += ["--check"] if check else []
        self._words += [] if state else ["--temporary"]
        self._facts: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None
        # Plain HTTP on the loopback: no certificates, no proxies.
        self._http = httpx.Client(timeout=120, verify=False, trust_env=False)

    # -- its life

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start it, and wait until it answers; also after `kill`, on the same state."""
        for _ in range(20):
            if self._try_to_start():
                return self
            # Somebody else took the folder first.
            self.state = _unused()
        raise AssertionError("no folder is free for the emulator")

    def _try_to_start(self) -> bool:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        port_file = self.state / f"where-{secrets.token_hex(4)}.json"
        argv = [sys.executable, "-m", "reef_site.demo.platform", "--state", str(self.state)]
        argv += ["--port-file", str(port_file), *self._words]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while not port_file.exists():
            if self.process.poll() == TAKEN and "--temporary" in self._words:
                return False
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the emulator did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)
        self._facts = json.loads(port_file.read_text())
        return True

    def stop(self) -> None:
        """End it and all its VMs; it removes its state if that was made for it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9: nothing is tidied up. `start` on the same state does that."""
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
        """Return its output."""
        return self.state / "emulator.log"

    # -- where it is

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("_facts", {})
        if name in facts:
            return facts[name]
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

    # -- what tests do to it

    def set(self, **switches: Any) -> None:
        """Set switches; reef_site/demo/platform/faults.py names them."""
        self._ask("PATCH", "/emulator/switches", switches)

    def fail(self, op: str, **fault: Any) -> None:
        """Have calls of an operation fail; see `Fault` for what may be said."""
        self._ask("POST", "/emulator/faults", {"op": op, **fault})

    def heal(self) -> None:
        """No switches, no faults."""
        self._ask("POST", "/emulator/heal")

    def reset(self) -> None:
        """No VMs, commits and names either."""
        self._ask("POST", "/emulator/reset")

    def look(self) -> dict[str, Any]:
        """Its inside: switches, faults, violations and all VMs of all organisations."""
        found: dict[str, Any] = self._ask("GET", "/emulator")
        return found

    def vms(self) -> list[dict[str, Any]]:
        """All VMs: vm_id, state, ip, labels, parent_commit_id."""
        found: list[dict[str, Any]] = self.look()["vms"]
        return found

    def violations(self) -> list[str]:
        """Answers that did not fit the description."""
        found: list[str] = self.look()["violations"]
        return found

    def heard(self) -> list[dict[str, Any]]:
        """Requests so far: op, method, path, status, milliseconds, request_id, at."""
        found: list[dict[str, Any]] = self._ask("GET", "/emulator/heard")
        return found

    def another_key(self, org: str | None = None) -> str:
        """A key of the same organisation, or of another."""
        made: str = self._ask("POST", "/emulator/keys", {"org": org})["key"]
        return made

    def cut(self, vm_id: str | None = None) -> int:
        """Break open SSH connections, all or those of one VM; new ones work. How many."""
        hit: int = self._ask("POST", "/emulator/cut", {"vm_id": vm_id})["cut"]
        return hit

    def cable(self, vm_id: str, *, up: bool) -> None:
        """Pull a VM's network cable or put it back (not in plain mode)."""
        self._ask("PATCH", f"/emulator/vm/{vm_id}/cable", {"up": up})

    def crash(self, vm_id: str) -> None:
        """End all processes of a VM; the API then tells `dead`."""
        self._ask("POST", f"/emulator/vm/{vm_id}/crash")

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        headers = {"authorization": f"Bearer {self.key}"}
        answer = self._http.request(method, f"{self.url}{path}", json=body, headers=headers)
        if answer.status_code >= 400:
            raise AssertionError(f"{path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None


def _unused() -> Path:
    """The first of a row of folders that no emulator holds."""
    row = Path(tempfile.gettempdir()) / f"vme-{os.getuid()}"
    number = 0
    while _held(row / str(number) / "lock"):
        number += 1
    return row / str(number)


def _held(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
