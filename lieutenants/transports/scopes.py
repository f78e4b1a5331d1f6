"""A systemd scope of its own for each keeper and its agent.

`setsid` leaves the session of reef's service, not its control group: what systemd does to all
processes of that group would end the agents, too.
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

# There where systemd is the manager of this machine.
BOOTED = Path("/run/systemd/system")
# From this version on scopes have an OOMPolicy; before, a killed process spared the others.
_WITH_OOM_POLICY = 253
_VERSION_SECONDS = 5


@dataclass(frozen=True)
class Manager:
    """How to run a command in a new scope of this host's service manager."""

    words: tuple[str, ...]
    env: Mapping[str, str]

    def prefix(self, run: str) -> list[str]:
        """Return the words before the command; `run` is unique."""
        return [*self.words, f"--unit=reef-{run}", "--"]


_refused = threading.Event()


def manager() -> Manager | None:
    """Return the service manager that can give this user scopes; None if there is none."""
    return None if _refused.is_set() else _find()


def refuse(reason: str) -> None:
    """Do without scopes from now on: the manager did not give one."""
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
