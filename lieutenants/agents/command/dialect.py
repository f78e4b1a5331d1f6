"""The dialect `command`: a program of the lieutenant's own, which runs once for each message."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lieutenants.agents import command_lines
from lieutenants.agents.base import (
    Features,
    Image,
    Outgoing,
    Preparation,
    Preset,
    Program,
    RemoteMachine,
    no_options,
    prefix_of,
)
from lieutenants.agents.command import decode
from lieutenants.agents.command_line_dialect import CommandLineDialect
from reef_site.common.errors import BadInput
from versconfig.keys import MODEL_KEYS

if TYPE_CHECKING:
    from lieutenants.agents.events import Event, Screening
    from lieutenants.isolation.homes import Home
    from lieutenants.models import Lieutenant
    from versconfig.screening.screen import Screen
    from vmtree.models import Node

RUNNER = Path(__file__).with_name("runner.py")
# It reports the end of each run, and has no queue.
_STATE = {"clears_queue": False, "settles": True}


class CommandDialect(CommandLineDialect):
    """See `base.Dialect`."""

    name = "command"
    label = "command: a program that runs once for each message"
    features = Features(command=True, prints=True)
    withheld = frozenset(MODEL_KEYS)
    presets: Mapping[str, Preset] = {}
    option_names: Sequence[str] = ()
    remote_helpers: Sequence[Path] = (RUNNER,)

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Reject any: it has no settings of its own."""
        return no_options(self.name, options)

    def excess_of(
        self, own: Lieutenant, agent: str, command: Sequence[str], options: Mapping[str, Any]
    ) -> str:
        """Return nothing: it does not ask before it acts."""
        return ""

    def check_new_program(self, command: Sequence[str]) -> None:
        """Raise BadInput if a program without a path is not on this host."""
        command_lines.check_is_here(command)

    def find_program(self, lieutenant: Lieutenant | None = None) -> Program:
        """Return the runner with the lieutenant's command."""
        command = list(lieutenant.command) if lieutenant else []
        python = Path(os.path.realpath(sys.executable))
        return Program(
            label=command_lines.label(command),
            argv=[str(python), "-I", "-S", str(RUNNER), *command],
            files=[*prefix_of(python), RUNNER, *command_lines.files_of(command)],
            state=_STATE,
        )

    def prepare(self, lieutenant: Lieutenant, home: Home) -> Preparation:
        """Return nothing: a new process remembers nothing of earlier ones."""
        return Preparation()

    def find_remote_program(self, lieutenant: Lieutenant, machine: RemoteMachine) -> Program:
        """Return the runner on the VM with the lieutenant's command."""
        command = list(lieutenant.command)
        command_lines.check_is_there(command, machine)
        return Program(
            label=command_lines.label(command),
            argv=[machine.python, "-I", "-S", f"{machine.programs}/{RUNNER.name}", *command],
            state=_STATE,
        )

    def prepare_remote(
        self, lieutenant: Lieutenant, home: Home, machine: RemoteMachine
    ) -> Preparation:
        """Return nothing, as for a local start."""
        return Preparation()

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

    def answer_dialog(self, request_id: str, kind: str, answer: str | bool) -> Outgoing:
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
