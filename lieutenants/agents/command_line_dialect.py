"""The common part of dialects whose agents are command lines of their lieutenants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lieutenants.agents import command_lines
from lieutenants.agents.base import HostCheck, Program

if TYPE_CHECKING:
    from lieutenants.isolation.homes import Home
    from lieutenants.models import Lieutenant


class CommandLineDialect:
    """See `base.Dialect`. A program of reef's starts the agent; reef keeps no configuration."""

    name: str
    usual_programs: Sequence[str] = ()
    attendant = ""
    warnings: Sequence[str] = ()

    def register_hooks(self) -> None:
        """Register nothing."""

    def host_problem(self) -> str:
        """Return nothing: reef's program needs only Python, and each lieutenant names its own."""
        return ""

    def check_host(self) -> HostCheck:
        """Return nothing, as above."""
        return HostCheck()

    def check_command(self, command: Sequence[str]) -> None:
        """Validate number, length and characters of program and arguments."""
        command_lines.check(command, self.name)

    def problem_of(self, program: Program) -> str:
        """Return nothing: reef's program looks for the agent, with the rights that it has."""
        return ""

    def check_config(self) -> None:
        """Accept: there is no configuration."""

    def config_folder(self) -> Path | None:
        """Return None: agents keep their own configuration in their home, if any."""
        return None

    def complete_config(self, folder: Path) -> None:
        """Do nothing: there is no configuration."""

    def remote_config(self, address: str) -> Mapping[str, str]:
        """Return nothing, as on this host."""
        return {}

    def remote_programs(self, lieutenant: Lieutenant) -> Sequence[str]:
        """Return the program, if it is looked up on PATH."""
        return command_lines.searched(lieutenant.command)

    def remote_files(self, lieutenant: Lieutenant, home: Home) -> Sequence[str]:
        """Return nothing."""
        return ()

    def is_command(self, text: str) -> bool:
        """Return False: the agent answers each message."""
        return False

    def is_info(self, note: str) -> bool:
        """Return False: `prepare` has no notes."""
        return False

    def is_model_warning(self, note: str) -> bool:
        """Return False: reef's program has no warnings."""
        return False
