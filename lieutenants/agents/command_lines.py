"""Command lines of lieutenants, for the agents that are defined by one."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from lieutenants.agents.base import RemoteMachine, interpreter_of, prefix_of
from lieutenants.exceptions import AgentMissing
from reef_site.common.errors import BadInput
from reef_site.common.text import clip, is_storable

MAX_ARGUMENTS, MAX_CHARACTERS = 256, 20_000
_MAX_LABEL = 300


def check(command: Sequence[str], agent: str) -> None:
    """Validate number, length and characters of program and arguments. Raises BadInput."""
    if not command or not command[0].strip():
        raise BadInput(f"command is required for the agent '{agent}'", "command")
    if len(command) > MAX_ARGUMENTS:
        raise BadInput(f"command: at most {MAX_ARGUMENTS} texts", "command")
    if sum(map(len, command)) > MAX_CHARACTERS:
        raise BadInput(f"command: at most {MAX_CHARACTERS} characters", "command")
    if not all(map(is_storable, command)):
        raise BadInput("command: has characters that are no text", "command")


def check_is_here(command: Sequence[str]) -> None:
    """Raise BadInput if a program without a path is not on this host.

    A path is looked up only at the start: the file may be one that only the agent's user can see,
    or that does not exist yet.
    """
    name = command[0]
    if "/" not in name and shutil.which(name) is None:
        raise BadInput(f"command: there is no program '{clip(name, 100)}' here", "command")


def check_is_there(command: Sequence[str], machine: RemoteMachine) -> None:
    """Raise AgentMissing if a program without a path is not on the VM."""
    if "/" not in command[0] and command[0] not in machine.found:
        raise AgentMissing(f"there is no program '{clip(command[0], 100)}' on it")


def searched(command: Sequence[str]) -> list[str]:
    """Return the program, if it is looked up on PATH."""
    return [] if "/" in command[0] else [command[0]]


def label(command: Sequence[str]) -> str:
    """Return the command as text for people."""
    return clip(shlex.join(command), _MAX_LABEL)


def files_of(command: Sequence[str]) -> list[Path]:
    """Return the program on PATH and its interpreter. A path is only what the agent can reach."""
    found = shutil.which(command[0]) if command and "/" not in command[0] else None
    return [*prefix_of(Path(found)), *interpreter_of(Path(found))] if found else []
