"""Interface of a dialect: how one kind of agent is started, and spoken to.

A dialect only translates. It changes no rows, but for what its `prepare` stores about the start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from reef_site.common.errors import BadInput

if TYPE_CHECKING:
    from lieutenants.agents.events import Event, Screening
    from lieutenants.isolation.homes import Home
    from lieutenants.models import Lieutenant
    from versconfig.screening.screen import Screen
    from vmtree.models import Node

Command = dict[str, Any]
# The id of a reply to a dialog is this and the dialog's id.
DIALOG_REPLY = "~ui-"


class Image(Protocol):
    """An image of a message."""

    @property
    def media_type(self) -> str: ...

    @property
    def data(self) -> bytes: ...


class Outgoing(NamedTuple):
    """A command for a keeper; its id makes sure that it is sent once."""

    id: str
    line: Command


@dataclass(frozen=True)
class Features:
    """Abilities of an agent. Pages and API offer nothing that needs a missing one."""

    # It takes a message into the running answer.
    steering: bool = False
    # It has a queue of its own for messages that arrive while it works. Only those that steer it
    # get there; reef keeps all others until it has finished the previous one.
    queue: bool = False
    # It can go back to before a message.
    rewind: bool = False
    # It remembers earlier messages in a session file.
    session: bool = False
    # It works with a model that can be chosen, and needs the keys of model providers.
    models: bool = False
    # It reports how much of its context is in use.
    context: bool = False
    # It takes images with a message.
    images: bool = False
    # Its program can make a page of a session.
    export: bool = False
    # It opens dialogs that a person answers.
    dialogs: bool = False
    # It starts with reef's default model if no other is chosen.
    default_model: bool = False
    # It is defined by a command line of the lieutenant.
    command: bool = False
    # Its answers are what a program prints, not Markdown.
    prints: bool = False


@dataclass(frozen=True)
class Preset:
    """A command line to choose by its name."""

    label: str
    command: tuple[str, ...]
    # How to get the program, as text for people.
    install: str


@dataclass(frozen=True)
class Program:
    """A program that can be started as an agent on this host."""

    # Its path and version, as text for people.
    label: str
    argv: Sequence[str]
    # Files and folders that it needs; those of the system count as reachable.
    files: Sequence[Path] = ()
    # How long it may take to end after SIGTERM.
    stop_seconds: float = 3.0
    # Features of its version, as keys of `Process.state`.
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HostCheck:
    """Result of checking the program that a host offers."""

    # Why it is useless; empty if it is usable, or if reef can do without it.
    problem: str = ""
    # Lines for the operator.
    notes: Sequence[str] = ()
    # Variables of reef's processes, to use another program.
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Preparation:
    """Launch parameters of one start, in addition to those that all agents have."""

    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    # Files of JSON lines whose incomplete last line is removed.
    heal: Sequence[str] = ()
    # Further keys of `Process.state`.
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FoundProgram:
    """A program on a VM, and the npm package and version that it belongs to, if known."""

    path: str
    package: str = ""
    version: str = ""


@dataclass(frozen=True)
class RemoteMachine:
    """A VM on which an agent is about to start. Paths are paths there."""

    python: str
    # Folder with the programs that reef has copied there, `runner.py` among them.
    programs: str
    # What was found of `Dialect.remote_programs`, by the names asked for.
    found: Mapping[str, FoundProgram] = field(default_factory=dict)
    # Sizes of those of `Dialect.remote_files` that exist.
    sizes: Mapping[str, int] = field(default_factory=dict)


class Dialect(Protocol):
    """One kind of agent."""

    name: str
    # Name and description, as text for people.
    label: str
    features: Features
    # Variables of reef's environment that this agent does not get.
    withheld: frozenset[str]
    # The one of `remote_helpers` that attends to an agent which an older server has started; empty
    # without.
    attendant: str
    # Command lines that can be chosen for it, by name.
    presets: Mapping[str, Preset]
    # Names of the settings that `check_options` takes.
    option_names: Sequence[str]
    # Texts in lines of its stderr that readers of the transcript must see.
    warnings: Sequence[str]
    # Names and paths of its program on VMs; empty if each lieutenant has its own.
    usual_programs: Sequence[str]

    @property
    def remote_helpers(self) -> Sequence[Path]:
        """Programs of reef that its agents need beside them on a VM, by file names of their own."""
        ...

    # -- program and start ----------------------------------------------------------------

    def register_hooks(self) -> None:
        """Register with the hooks of lower apps, when the app is ready."""
        ...

    def host_problem(self) -> str:
        """Return why no lieutenant with this agent can start here; empty if one can."""
        ...

    def check_host(self) -> HostCheck:
        """Check the program that this host offers, by running it, when reef is started."""
        ...

    def check_command(self, command: Sequence[str]) -> None:
        """Validate the form of a new lieutenant's command line. Raises BadInput."""
        ...

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a new lieutenant's agent as they are stored. Raises BadInput."""
        ...

    def excess_of(
        self, own: Lieutenant, agent: str, command: Sequence[str], options: Mapping[str, Any]
    ) -> str:
        """Return by what an agent that `own` chooses for others may do more by itself than `own`.

        Empty if by nothing. An empty `agent` is the default kind.
        """
        ...

    def check_new_program(self, command: Sequence[str]) -> None:
        """Raise AgentMissing or BadInput if this host lacks the program of a new lieutenant."""
        ...

    def find_program(self, lieutenant: Lieutenant | None = None) -> Program:
        """Return the program, for this lieutenant or for any. Raises AgentMissing."""
        ...

    def problem_of(self, program: Program) -> str:
        """Return why this program cannot be started, with the remedy; empty if it can."""
        ...

    def check_config(self) -> None:
        """Raise AgentMisconfigured if the configuration would prevent every start."""
        ...

    def config_folder(self) -> Path | None:
        """Return the configuration of which each agent gets a copy; None without one."""
        ...

    def complete_config(self, folder: Path) -> None:
        """Complete the copy of the configuration, and protect its keys. Raises OSError."""
        ...

    def prepare(self, lieutenant: Lieutenant, home: Home) -> Preparation:
        """Prepare one start in these folders. Raises ReefError, OSError."""
        ...

    # -- the same on a VM --------------------------------------------------------------------

    def remote_programs(self, lieutenant: Lieutenant) -> Sequence[str]:
        """Return names and paths of programs to look for on the VM."""
        ...

    def remote_files(self, lieutenant: Lieutenant, home: Home) -> Sequence[str]:
        """Return files on the VM whose sizes `prepare_remote` needs."""
        ...

    def find_remote_program(self, lieutenant: Lieutenant, machine: RemoteMachine) -> Program:
        """Return the program on the VM. Raises AgentMissing, which says what to do there."""
        ...

    def prepare_remote(
        self, lieutenant: Lieutenant, home: Home, machine: RemoteMachine
    ) -> Preparation:
        """Prepare one start in these folders on the VM. Raises ReefError."""
        ...

    def remote_config(self, address: str) -> Mapping[str, str]:
        """Return texts of configuration files for the VM, by name. Raises OSError.

        `address` is that of reef as the VM reaches it.
        """
        ...

    def check_model(self, lieutenant: Lieutenant, model: str) -> None:
        """Raise BadInput if the agent does not have this model."""
        ...

    def check_new_model(self, model: str, parent: Node | None, folder: str) -> None:
        """Raise BadInput if an agent that starts below this node cannot have this model."""
        ...

    def matches_model(self, wanted: str, names: Sequence[str]) -> bool:
        """Return whether a model name or pattern selects a model with one of these names."""
        ...

    def check_images(self, lieutenant: Lieutenant) -> None:
        """Raise BadInput if the model in use is known to take no images."""
        ...

    def export_html(self, lieutenant: Lieutenant, screen: Screen) -> bytes:
        """Return a page of the session, with secrets covered. Needs the feature `export`.

        Raises NotSupported, ExportFailed, AgentMissing, IsolationUnavailable.
        """
        ...

    # -- journal --------------------------------------------------------------------------

    def decode(self, payload: dict[str, Any], screening: Screening) -> Event | None:
        """Return the event that the agent reported, with secrets covered; None if it is none."""
        ...

    def is_command(self, text: str) -> bool:
        """Return whether an extension of the agent may handle this message without a run."""
        ...

    def is_info(self, note: str) -> bool:
        """Return whether a note of `prepare` is only for information, not a problem."""
        ...

    def is_model_warning(self, note: str) -> bool:
        """Return whether a warning of the agent is about the model with which it goes on."""
        ...

    # -- commands -------------------------------------------------------------------------

    def send_message(
        self, message_id: str, text: str, *, steer: bool, images: Sequence[Image] = ()
    ) -> Outgoing:
        """Build the command that delivers a message. Images need the feature `images`."""
        ...

    def abort(self, command_id: str) -> Outgoing:
        """Build the command that aborts the running answer."""
        ...

    def clear_queue(self, command_id: str) -> Outgoing:
        """Build the command that empties the agent's queue and returns the messages in it."""
        ...

    def query_state(self, command_id: str) -> Outgoing:
        """Build a query whose reply comes after all earlier output."""
        ...

    def list_models(self, command_id: str) -> Outgoing | None:
        """Build the query for the agent's models; None for an agent without."""
        ...

    def query_context(self, command_id: str) -> Outgoing | None:
        """Build the query for the usage of the context; None for an agent without."""
        ...

    def dismiss_dialog(self, request_id: str) -> Outgoing:
        """Build the reply that dismisses a dialog."""
        ...

    def answer_dialog(self, request_id: str, kind: str, answer: str | bool) -> Outgoing:
        """Build the reply to a dialog of this kind. It has the id of a dismissal.

        So keepers pass on only one of them.
        """
        ...

    def list_messages(self, command_id: str) -> Outgoing:
        """Build the query for the messages to which the agent can go back."""
        ...

    def fork(self, command_id: str, entry_id: str) -> Outgoing:
        """Build the command to go back to before a message of that list."""
        ...


def no_options(agent: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return no settings. Raises BadInput if there are any."""
    if options:
        raise BadInput(f"agent.{min(options)}: is not a setting of the agent '{agent}'", "agent")
    return {}


def prefix_of(program: Path) -> list[Path]:
    """Return a program in a `bin`, its real path, and the libraries beside it."""
    found = []
    for path in (program, program.resolve()):
        found.append(path.parent if path.parent.name == "bin" else path)
        libraries = (path.parent.parent / name for name in ("lib", "lib64", "pyvenv.cfg"))
        found += [path for path in libraries if path.exists()]
    return found


def interpreter_of(script: Path) -> list[Path]:
    """Return the paths that the interpreter in a script's first line needs."""
    try:
        with script.open("rb") as file:
            line = file.readline(1000)
    except OSError:
        return []
    words = line[2:].split() if line.startswith(b"#!") else []
    return prefix_of(Path(os.fsdecode(words[0]))) if words else []
