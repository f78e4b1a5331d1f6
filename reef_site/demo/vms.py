"""VMs for `up --demo`: the emulator of the VM platform, if this machine can run it.

It is a separate program; reef's processes only get addresses and a key in their environment, as for
the real platform. If the operator has configured a platform, there are no demo VMs. If the emulator
cannot run, the demo has no VMs at all, because it must not use a key that is stored for real work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings

FOLDER = "emulator"
PROGRAM = Path("reef_site") / "demo" / "platform"
# Setting any of these configures a platform.
PLATFORM_SETTINGS = ("VERS_API_KEY", "VERS_BASE_URL")
PREPARE_SECONDS = 30.0
# Exit code of the emulator if another one uses its folder.
EXIT_FOLDER_IN_USE = 75
# Port of the demo model for VMs.
MODEL_PORT = 4141


@dataclass(frozen=True)
class DemoVms:
    """The emulator: its command line and address, and the environment that makes reef use it."""

    argv: list[str]
    address: str
    environment: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class NoDemoVms:
    """The reason why the demo has no VMs."""

    reason: str
    # True if the operator has configured a platform, which reef then uses.
    is_configured: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """Variables that keep reef from using a stored key, unless a platform is configured."""
        text = f"this demo has no VMs ({self.reason}); without --demo reef uses the platform"
        return {} if self.is_configured else {"REEF_NO_VMS": text}


def prepare(
    data: Path, port: int, *, on_loopback: bool, report: Callable[[str], None] = lambda _: None
) -> DemoVms | NoDemoVms:
    """Try to prepare the emulator. `port` is reef's own, which VMs call at the bridge address.

    If reef listens only `on_loopback`, the emulator relays connections to it.
    """
    if named := [name for name in PLATFORM_SETTINGS if os.environ.get(name, "").strip()]:
        return NoDemoVms(f"{named[0]} is set", is_configured=True)
    if not (settings.BASE_DIR / PROGRAM / "__main__.py").exists():
        return NoDemoVms("this is no checkout of reef")
    argv = [sys.executable, "-m", ".".join(PROGRAM.parts), "--state", str(data / FOLDER)]
    argv += ["--mode", "namespaces"]
    try:
        done = _prepare(argv, report)
        info: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    except subprocess.TimeoutExpired:
        return NoDemoVms(f"the emulator did not come up within {PREPARE_SECONDS:.0f} seconds")
    except ValueError:
        info = {}
    if done.returncode or "url" not in info:
        return NoDemoVms(_last_line(done.stderr))
    return _demo_vms(argv, info, data, port, on_loopback=on_loopback)


def _prepare(argv: list[str], report: Callable[[str], None]) -> subprocess.CompletedProcess[str]:
    """Run `--prepare`, again while an earlier emulator is ending. Raises TimeoutExpired."""
    end, is_reported = time.monotonic() + PREPARE_SECONDS, False
    while True:
        done = subprocess.run(
            [*argv, "--prepare"],
            cwd=settings.BASE_DIR,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=max(1.0, end - time.monotonic()),
            check=False,
        )
        if done.returncode != EXIT_FOLDER_IN_USE or time.monotonic() > end - 1.0:
            return done
        if not is_reported:
            report("waiting for the emulator of an earlier demo, which still clears up")
        is_reported = True
        time.sleep(0.5)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("emulator: ") if lines else "the emulator does not say why"


def _demo_vms(
    argv: list[str], info: dict[str, Any], data: Path, port: int, *, on_loopback: bool
) -> DemoVms:
    api_port = info["url"].rpartition(":")[2]
    address: str = info["bridge_address"]
    model_port = MODEL_PORT if port != MODEL_PORT else MODEL_PORT + 1
    # The demo model writes its port to this file.
    argv = [*argv, "--port", api_port, "--gateway-port", str(info["gateway_port"])]
    argv += ["--address", address, "--relay", f"{model_port}={data / 'demo' / 'port'}"]
    argv += ["--relay", f"{port}={port}"] if on_loopback else []
    environment = {
        "VERS_API_KEY": info["key"],
        "VERS_BASE_URL": info["url"],
        "REEF_SSH_USER": info["user"],
        "REEF_SSH_DOMAIN": info["domain"],
        "REEF_SSH_GATEWAY": info["gateway_host"],
        "REEF_SSH_PORT": str(info["gateway_port"]),
        "REEF_SSH_CA_FILE": info["ca_file"],
        "REEF_MODEL_URL": f"http://{address}:{model_port}/v1",
        "VERS_INFRA_URL": f"http://{address}:{port}",
        "REEF_VMS_EMULATED": "1",
    }
    return DemoVms(argv, address, environment)
