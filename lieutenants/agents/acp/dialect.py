"""The dialect `acp`: any agent that speaks the Agent Client Protocol over its pipes.

A keeper starts the bridge (`bridge/`), which starts the agent and translates in both directions. It
answers at once what needs no person, so an agent never waits for a worker.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from lieutenants.agents import command_lines
from lieutenants.agents.acp import decode
from lieutenants.agents.acp.presets import PRESETS, hint
from lieutenants.agents.acp.program import START, remote_file
from lieutenants.agents.acp.settings import OPTION_NAMES, AcpSettings
from lieutenants.agents.base import (
    DIALOG_REPLY,
    Features,
    Image,
    Outgoing,
    Preparation,
    Preset,
    Program,
    RemoteMachine,
    prefix_of,
)
from lieutenants.agents.command_line_dialect import CommandLineDialect
from lieutenants.agents.model_lists import summary
from lieutenants.agents.pi.config import provider_keys
from lieutenants.models import AgentModels, Lieutenant
from reef_site.common.errors import BadInput

if TYPE_CHECKING:
    from lieutenants.agents.events import Event, Screening
    from lieutenants.isolation.homes import Home
    from versconfig.screening.screen import Screen
    from vmtree.models import Node

# It reports the end of each run, and has no queue.
_STATE = {"clears_queue": False, "settles": True}
# Most agents end with their input; the bridge gives the others two seconds, and then kills them.
_STOP_SECONDS = 5.0


class AcpDialect(CommandLineDialect):
    """See `base.Dialect`."""

    name = "acp"
    label = "acp: any agent that speaks the Agent Client Protocol"
    features = Features(
        session=True, models=True, context=True, images=True, dialogs=True, command=True
    )
    withheld: frozenset[str] = frozenset()
    presets: Mapping[str, Preset] = PRESETS
    option_names: Sequence[str] = OPTION_NAMES

    @property
    def remote_helpers(self) -> Sequence[Path]:
        """Return the bridge as one file. Raises OSError."""
        return (remote_file(),)

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return valid settings of the lieutenant's agent. Raises BadInput."""
        return AcpSettings.read(options).stored()

    def excess_of(
        self, own: Lieutenant, agent: str, command: Sequence[str], options: Mapping[str, Any]
    ) -> str:
        """Return a kind, command or setting by which the other agent may do more by itself."""
        mine = AcpSettings.read(own.agent_options)
        if mine.permits_all:
            return ""
        if agent not in ("", self.name):
            return "agent"
        known = [[], own.command, *(list(each.command) for each in self.presets.values())]
        if list(command) not in known:
            return "command"
        return mine.excess_of(AcpSettings.read(options))

    def check_new_program(self, command: Sequence[str]) -> None:
        """Raise BadInput if a program without a path is not on this host."""
        try:
            command_lines.check_is_here(command)
        except BadInput as error:
            raise BadInput(f"{error}{hint(list(command))}", "command") from None

    def find_program(self, lieutenant: Lieutenant | None = None) -> Program:
        """Return the bridge; `prepare` adds its options and the lieutenant's command."""
        command = list(lieutenant.command) if lieutenant else []
        python = Path(os.path.realpath(sys.executable))
        return Program(
            label=command_lines.label(command),
            argv=[str(python), "-I", "-S", str(START)],
            files=[*prefix_of(python), START.parent, *command_lines.files_of(command)],
            stop_seconds=_STOP_SECONDS,
            state=_STATE,
        )

    def prepare(self, lieutenant: Lieutenant, home: Home) -> Preparation:
        """Return the options of the bridge, and the keys of model providers. Raises ReefError."""
        return _prepare(lieutenant, home)

    def find_remote_program(self, lieutenant: Lieutenant, machine: RemoteMachine) -> Program:
        """Return the bridge on the VM. Raises AgentMissing."""
        command_lines.check_is_there(lieutenant.command, machine)
        return Program(
            label=command_lines.label(lieutenant.command),
            argv=[machine.python, "-I", "-S", f"{machine.programs}/{remote_file().name}"],
            stop_seconds=_STOP_SECONDS,
            state=_STATE,
        )

    def prepare_remote(
        self, lieutenant: Lieutenant, home: Home, machine: RemoteMachine
    ) -> Preparation:
        """Return the same as for a local start."""
        return _prepare(lieutenant, home)

    def check_model(self, lieutenant: Lieutenant, model: str) -> None:
        """Raise BadInput if the running agent has told its models, and this is none of them."""
        known = AgentModels.objects.filter(lieutenant=lieutenant, process__ended_at=None).first()
        names = [*known.names, *known.labels] if known else []
        if known and model and names and not self.matches_model(model, names):
            there = summary(known.names)
            raise BadInput(f"model: the agent has no '{model[:100]}'; these are: {there}", "model")

    def check_new_model(self, model: str, parent: Node | None, folder: str) -> None:
        """Accept: only the running agent knows its models."""

    def matches_model(self, wanted: str, names: Sequence[str]) -> bool:
        """Return whether the bridge would choose a model with one of these names."""
        low = wanted.strip().lower()
        return any(low in name.lower() for name in names)

    def check_images(self, lieutenant: Lieutenant) -> None:
        """Accept: an agent that takes no images refuses the message."""

    def export_html(self, lieutenant: Lieutenant, screen: Screen) -> bytes:
        """Raise NotImplementedError: services refuse to export."""
        raise NotImplementedError("the protocol exports no session")

    def decode(self, payload: dict[str, Any], screening: Screening) -> Event | None:
        """Decode a report of the bridge, see `decode.py`."""
        return decode.decode(payload, screening)

    def send_message(
        self, message_id: str, text: str, *, steer: bool, images: Sequence[Image] = ()
    ) -> Outgoing:
        """Build the command that becomes `session/prompt`."""
        line: dict[str, Any] = {"id": message_id, "type": "prompt", "message": text}
        if images:
            line["images"] = [
                {"data": base64.b64encode(each.data).decode(), "mimeType": each.media_type}
                for each in images
            ]
        return Outgoing(message_id, line)

    def abort(self, command_id: str) -> Outgoing:
        """Build the command that becomes `session/cancel`."""
        return _simple("abort", command_id)

    def clear_queue(self, command_id: str) -> Outgoing:
        """Raise NotImplementedError: `clears_queue` of the state is false."""
        raise NotImplementedError("the bridge has no queue")

    def query_state(self, command_id: str) -> Outgoing:
        """Build the query whether the agent works; the bridge replies once the agent is ready."""
        return _simple("get_state", command_id)

    def list_models(self, command_id: str) -> Outgoing | None:
        """Build the query for the models that the agent has offered."""
        return _simple("get_available_models", command_id)

    def query_context(self, command_id: str) -> Outgoing | None:
        """Build the query for the usage that the agent has reported."""
        return _simple("get_session_stats", command_id)

    def dismiss_dialog(self, request_id: str) -> Outgoing:
        """Build the reply that refuses a permission."""
        line = {"type": "extension_ui_response", "id": request_id, "cancelled": True}
        return Outgoing(f"{DIALOG_REPLY}{request_id}", line)

    def answer_dialog(self, request_id: str, kind: str, answer: str | bool) -> Outgoing:
        """Build the reply with the id of the chosen option."""
        line = {"type": "extension_ui_response", "id": request_id, "value": answer}
        return Outgoing(f"{DIALOG_REPLY}{request_id}", line)

    def list_messages(self, command_id: str) -> Outgoing:
        """Raise NotImplementedError: services refuse to go back."""
        raise NotImplementedError("the protocol cannot go back")

    def fork(self, command_id: str, entry_id: str) -> Outgoing:
        """Raise NotImplementedError: services refuse to go back."""
        raise NotImplementedError("the protocol cannot go back")


def _prepare(lieutenant: Lieutenant, home: Home) -> Preparation:
    chosen = AcpSettings.read(lieutenant.agent_options)
    stored = provider_keys(lieutenant)
    Lieutenant.objects.filter(pk=lieutenant.pk).update(
        model_wanted=lieutenant.model, model_problem="", session_problem=""
    )
    options = {
        "session": str(home.session / lieutenant.session_name),
        "instructions": str(home.prompt),
        "permissions": chosen.permissions,
        "files": chosen.files,
        "terminals": chosen.terminals,
        "mode": chosen.mode,
        "model": lieutenant.model,
        "tools": "yes" if settings.AGENT_TOOLS else "",
    }
    words = [word for name, value in options.items() if value for word in (f"--{name}", value)]
    return Preparation(
        arguments=[*words, "--", *lieutenant.command],
        environment=stored.environment,
        state={"secret_versions": stored.versions},
    )


def _simple(kind: str, command_id: str) -> Outgoing:
    return Outgoing(command_id, {"id": command_id, "type": kind})
