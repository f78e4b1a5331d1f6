"""The agent program: how to find it, start it, and what differs between its versions.

`pi` has been published under two names; images in the field still have 0.73.1 of the old one.
`Agent` has all differences between versions that reef depends on.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from lieutenants.agents.base import RemoteMachine
from lieutenants.exceptions import AgentMissing

PINNED = "1.6.0"
PACKAGES = frozenset({"@earendil-works/pi-coding-agent", "@mariozechner/pi-coding-agent"})
_SLIM_SCRIPT = Path(__file__).parent / "node" / "slim.mjs"
_UNKNOWN: tuple[int, ...] = ()

# Part of the error text while `up` installs the agent, and the delay before the next attempt.
INSTALLING = "is being installed right now"
INSTALLING_SECONDS = 10
INSTALL_HINT = (
    "Install it (npm install -g @earendil-works/pi-coding-agent), or set PI_PATH to where it is, "
    "or start reef without --no-agent on a machine that has npm."
)
# Where to look for pi on a VM: on PATH, and where the bootloader installs it.
REMOTE_PATHS = ("pi", "/opt/reef/agent/pi", "~/.reef/agent/pi")
REMOTE_HINT = (
    "Install it there (npm install -g @earendil-works/pi-coding-agent), or provision the machine "
    "with a profile that brings it."
)


@dataclass(frozen=True)
class Agent:
    """An agent program that can be started; `version` is empty if unknown."""

    path: Path
    version: tuple[int, ...]
    # The script behind `path` and the Node that runs it, if known.
    script: Path | None = None
    node: str = ""

    def __str__(self) -> str:
        number = ".".join(map(str, self.version)) or "unknown version"
        return f"{self.path} ({number})"

    @property
    def clears_queue(self) -> bool:
        """Return whether queued messages can be withdrawn (from 0.84.4 on)."""
        return self.version >= (0, 84, 4)

    @property
    def reports_idle(self) -> bool:
        """Return whether the agent reports that it is idle (from 0.80.4 on)."""
        return self.version >= (0, 80, 4)

    @property
    def has_cumulative_deltas(self) -> bool:
        """Return whether each delta repeats the whole message twice (before 0.84)."""
        return _UNKNOWN < self.version < (0, 84)

    @property
    def needs_extension(self) -> bool:
        """Return whether it has no MCP client (before 0.99), so that tools need an extension."""
        return _UNKNOWN < self.version < (0, 99)

    @property
    def stop_seconds(self) -> float:
        """Return how long it may take to end after SIGTERM.

        From 1.5.1 on it first saves a login that is being refreshed, for up to 15 seconds.
        """
        return 16.0 if self.version >= (1, 5, 1) else 3.0

    def argv(self) -> list[str]:
        """Return the command line, with the options that its version needs."""
        if self.has_cumulative_deltas and self.node and self.script:
            return [self.node, "--import", _SLIM_SCRIPT.as_uri(), str(self.script)]
        return [str(self.path)]


def find_agent() -> Agent:
    """Return the agent: PI_PATH, else `pi` on PATH, else the one that `up` installed.

    Raises AgentMissing.
    """
    if settings.PI_PATH:
        found = shutil.which(settings.PI_PATH)
        if not found:
            raise AgentMissing(
                f"PI_PATH is {settings.PI_PATH}, which is no program. Correct it where reef is "
                "started, leave it out so that reef looks for pi itself, or install the agent "
                "there (npm install -g @earendil-works/pi-coding-agent)."
            )
        return _inspect(Path(found))
    if not settings.OWN_AGENT and (found := shutil.which("pi")):
        return _inspect(Path(found))
    installed = settings.AGENT_INSTALL_DIR / "pi"
    if os.access(installed, os.X_OK):
        return _inspect(installed)
    why = _install_problem()
    dead = _dead_link()
    missing = AgentMissing(f"The agent pi is not on this host. {dead}{why or INSTALL_HINT}")
    if INSTALLING in why:
        missing.retry_seconds = INSTALLING_SECONDS
    raise missing


def find_remote_agent(machine: RemoteMachine) -> Agent:
    """Return the pi of a VM. Raises AgentMissing."""
    for name in REMOTE_PATHS:
        if found := machine.found.get(name):
            return Agent(Path(found.path), _numbers(found.version))
    raise AgentMissing(f"The agent pi is not on it. {REMOTE_HINT}")


def _dead_link() -> str:
    """Return a sentence about a dangling link `pi` on PATH; empty if there is none."""
    for folder in os.get_exec_path():
        path = Path(folder, "pi")
        if path.is_symlink() and not path.exists():
            return f"{path} is a link to {path.readlink()}, which is not there. "
    return ""


def agent_problem() -> str:
    """Return why no lieutenant can start here; empty if one can."""
    try:
        find_agent()
    except AgentMissing as error:
        return str(error)
    return ""


def _inspect(path: Path) -> Agent:
    """Inspect the program without running it."""
    real = path.resolve()
    if facts := _read_json(path.parent / "installed.json"):
        version, script = _numbers(facts.get("version")), Path(str(facts.get("cli")))
        return Agent(path.absolute(), version, script, str(facts.get("node") or ""))
    script_found = real if real.suffix in {".js", ".mjs"} else None
    return Agent(path.absolute(), _packaged_version(real), script_found, shutil.which("node") or "")


def _packaged_version(real: Path) -> tuple[int, ...]:
    """Return the version from its package.json; running the program could start a session."""
    for folder in list(real.parents)[:6]:
        facts = _read_json(folder / "package.json")
        if facts.get("name") in PACKAGES:
            return _numbers(facts.get("version"))
    return _UNKNOWN


def _read_json(path: Path) -> dict[str, object]:
    """Return the JSON object in a file; empty if there is none."""
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _numbers(version: object) -> tuple[int, ...]:
    parts = str(version).split("-")[0].split(".")
    return tuple(int(part) for part in parts) if all(map(str.isdigit, parts)) else _UNKNOWN


def _install_problem() -> str:
    """Return the error that the installer left behind, or ""."""
    try:
        return (settings.AGENT_INSTALL_DIR / "problem.txt").read_text().strip().replace("`", "")
    except OSError:
        return ""
