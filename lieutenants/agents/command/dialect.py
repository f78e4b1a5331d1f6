"""The dialect `command`: a program of the lieutenant's own, which runs once for each message."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lieutenants.agents.base import (
    Features,
    HostCheck,
    Image,
    Outgoing,
    Preparation,
    Program,
    RemoteMachine,
    interpreter_of,
    prefix_of,
)
from lieutenants.agents.command import decode
from lieutenants.exceptions import AgentMissing
from reef_site.common.errors import BadInput
from reef_site.common.text import clip, is_storable
from versconfig.keys import MODEL_KEYS

if TYPE_CHECKING:
    from lieutenants.agents.events import Event, Screening
    from lieutenants.isolation.homes import Home
    from lieutenants.models import Lieutenant
    from versconfig.screening.screen import Screen
    from vmtree.models import Node

RUNNER = Path(__file__).with_name("runner.py")
MAX_ARGUMENTS, MAX_CHARACTERS = 256, 20_000
_MAX_LABEL = 300
# It reports the end of each run, and has no queue.
_STATE = {"clears_queue": False, "settles": True}


class CommandDialect:
    """See `base.Dialect`."""

    name = "command"
    label = "command: a program that runs once for each message"
    features = Features(command=True)
    withheld = frozenset(MODEL_KEYS)
    usual_programs: Sequence[str] = ()
    remote_helpers: Sequence[Path] = (RUNNER,)
    warnings: Sequence[str] = ()

    def register_hooks(self) -> None:
        """Register nothing."""

    def host_problem(self) -> str:
        """Return nothing: the runner needs only Python."""
        return ""

    def check_host(self) -> HostCheck:
        """Return nothing: the runner needs only Python."""
        return HostCheck()

    def check_command(self, command: Sequence[str]) -> None:
        """Validate number, length and characters of program and arguments."""
        if not command or not command[0].strip():
            raise BadInput("command is required for the agent 'command'", "command")
        if len(command) > MAX_ARGUMENTS:
            raise BadInput(f"command: at most {MAX_ARGUMENTS} texts", "command")
        if sum(map(len, command)) > MAX_CHARACTERS:
            raise BadInput(f"command: at most {MAX_CHARACTERS} characters", "command")
        if not all(map(is_storable, command)):
            raise BadInput("command: has characters that are no text", "command")

    def check_new_program(self, command: Sequence[str]) -> None:
        """Raise BadInput if a program without a path is not on this host.

        A path is looked up only at the start: the file may be one that only the agent's user can
        see, or that does not exist yet.
        """
        name = command[0]
        if "/" not in name and shutil.which(name) is None:
            raise BadInput(f"command: there is no program '{clip(name, 100)}' here", "command")

    def find_program(self, lieutenant: Lieutenant | None = None) -> Program:
        """Return the runner with the lieutenant's command."""
        command = list(lieutenant.command) if lieutenant else []
        python = Path(os.path.realpath(sys.executable))
        return Program(
            label=clip(shlex.join(command), _MAX_LABEL),
            argv=[str(python), "-I", "-S", str(RUNNER), *command],
            files=[*prefix_of(python), RUNNER, *_files_of(command)],
            state=_STATE,
        )

    def problem_of(self, program: Program) -> str:
        """Return nothing: the runner looks for the program, with the rights that it has."""
        return ""

    def check_config(self) -> None:
        """Accept: there is no configuration."""

    def config_folder(self) -> Path | None:
        """Return None: programs get no logins and keys of models."""
        return None

    def complete_config(self, folder: Path) -> None:
        """Do nothing: there is no configuration."""

    def prepare(self, lieutenant: Lieutenant, home: Home) -> Preparation:
        """Return nothing: a new process remembers nothing of earlier ones."""
        return Preparation()

    def remote_programs(self, lieutenant: Lieutenant) -> Sequence[str]:
        """Return the program, if it is looked up on PATH."""
        name = lieutenant.command[0]
        return [] if "/" in name else [name]

    def remote_files(self, lieutenant: Lieutenant, home: Home) -> Sequence[str]:
        """Return nothing."""
        return ()

    def find_remote_program(self, lieutenant: Lieutenant, machine: RemoteMachine) -> Program:
        """Return the runner on the VM with the lieutenant's command."""
        command = list(lieutenant.command)
        if "/" not in command[0] and command[0] not in machine.found:
            raise AgentMissing(f"there is no program '{clip(command[0], 100)}' on it")
        return Program(
            label=clip(shlex.join(command), _MAX_LABEL),
            argv=[machine.python, "-I", "-S", f"{machine.programs}/{RUNNER.name}", *command],
            state=_STATE,
        )

    def prepare_remote(
        self, lieutenant: Lieutenant, home: Home, machine: RemoteMachine
    ) -> Preparation:
        """Return nothing, as for a local start."""
        return Preparation()

    def remote_config(self) -> Mapping[str, str]:
        """Return nothing: programs get no logins and keys of models."""
        return {}

    def check_model(self, lieutenant: Lieutenant, model: str) -> None:
        """Reject any model."""
        if model:
            raise BadInput("model: the agent 'command' uses no model", "model")

    def check_new_model(self, model: str, parent: Node | None, folder: str) -> None:
        """Accept: services refuse any model before."""

    def matches_model(self, wanted: str, names: Sequence[str]) -> bool:
        """Accept: it uses no model."""
        return True

    def decode(self, payload: dict[str, Any], screening: Screening) -> Event | None:
        """Decode a report, see `decode.py`."""
        return decode.decode(payload, screening)

    def is_command(self, text: str) -> bool:
        """Return False: the program gets every message."""
        return False

    def is_info(self, note: str) -> bool:
        """Return False: `prepare` has no notes."""
        return False

    def is_model_warning(self, note: str) -> bool:
        """Return False: it uses no model."""
        return False

    def check_images(self, lieutenant: Lieutenant) -> None:
        """Accept: services refuse any image before."""

    def export_html(self, lieutenant: Lieutenant, screen: Screen) -> bytes:
        """Raise NotImplementedError: services refuse to export."""
        raise NotImplementedError("the runner has no session")

    def send_message(
        self, message_id: str, text: str, *, steer: bool, images: Sequence[Image] = ()
    ) -> Outgoing:
        """Build the command that runs the program."""
        return Outgoing(message_id, {"id": message_id, "type": "prompt", "message": text})

    def abort(self, command_id: str) -> Outgoing:
        """Build the command that ends the running program."""
        return _simple("abort", command_id)

    def clear_queue(self, command_id: str) -> Outgoing:
        """Build the command that drops messages which wait for the running program."""
        return _simple("clear_queue", command_id)

    def query_state(self, command_id: str) -> Outgoing:
        """Build the query whether the program runs."""
        return _simple("get_state", command_id)

    def list_models(self, command_id: str) -> Outgoing | None:
        """Return None: it uses no model."""
        return None

    def query_context(self, command_id: str) -> Outgoing | None:
        """Return None: it has no context."""
        return None

    def dismiss_dialog(self, request_id: str) -> Outgoing:
        """Raise NotImplementedError: the runner opens no dialogs."""
        raise NotImplementedError("the runner opens no dialogs")

    def list_messages(self, command_id: str) -> Outgoing:
        """Raise NotImplementedError: services refuse to go back."""
        raise NotImplementedError("the runner has no session")

    def fork(self, command_id: str, entry_id: str) -> Outgoing:
        """Raise NotImplementedError: services refuse to go back."""
        raise NotImplementedError("the runner has no session")


def _simple(kind: str, command_id: str) -> Outgoing:
    return Outgoing(command_id, {"id": command_id, "type": kind})


def _files_of(command: Sequence[str]) -> list[Path]:
    """Return the program on PATH and its interpreter. A path is only what the agent can reach."""
    found = shutil.which(command[0]) if command and "/" not in command[0] else None
    return [*prefix_of(Path(found)), *interpreter_of(Path(found))] if found else []
