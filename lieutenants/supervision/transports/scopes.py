"""A separate systemd scope for each keeper and its agent.

`setsid` leaves the session of reef's service, but not its control group: what systemd does to all
processes of that group would end the agents too.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

# Exists where systemd manages this machine.
BOOTED = Path("/run/systemd/system")
# From this version on scopes have an OOMPolicy; earlier, a killed process did not affect the
# others.
_WITH_OOM_POLICY = 253
_VERSION_SECONDS = 5


@dataclass(frozen=True)
class Manager:
    """Runs commands in new scopes of this host's service manager."""

    words: tuple[str, ...]
    env: Mapping[str, str]

    def prefix(self, run: str) -> list[str]:
        """Return the arguments before the command; `run` is unique."""
        return [*self.words, f"--unit=reef-{run}", "--"]


_refused = threading.Event()


def manager() -> Manager | None:
    """Return a service manager that can create scopes for this user, or None."""
    return None if _refused.is_set() else _find()


def refuse(reason: str) -> None:
    """Stop using scopes: the manager did not create one."""
    logger.warning("agents get no systemd scopes of their own: %s", reason)
    _refused.set()


@functools.cache
def _find() -> Manager | None:
    program = shutil.which("systemd-run")
    if program is None or not BOOTED.is_dir():
        return None
    words, env = [program, "--scope", "--quiet", "--collect"], {}
    if os.geteuid() != 0:
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        if not runtime or not Path(runtime, "systemd", "private").exists():
            return None
        words.append("--user")
        env["XDG_RUNTIME_DIR"] = runtime
    if _version(program) >= _WITH_OOM_POLICY:
        words.append("--property=OOMPolicy=continue")
    return Manager(tuple(words), env)


def _version(program: str) -> int:
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("cannot ask %s for its version: %s", program, type(error).__name__)
        return 0
    found = re.match(r"systemd (\d+)", done.stdout)
    return int(found.group(1)) if found else 0
