"""The dialect `pi`: the coding agent pi in its RPC mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from lieutenants.agents import extension
from lieutenants.agents.base import (
    Features,
    HostCheck,
    Image,
    Outgoing,
    Preparation,
    Preset,
    Program,
    RemoteMachine,
    interpreter_of,
    no_options,
    prefix_of,
)
from lieutenants.agents.pi import (
    check,
    config,
    decode,
    export,
    mcp_file,
    model_choice,
    program,
    rpc,
    session_files,
    settings_file,
)
from lieutenants.models import Lieutenant
from reef_site.common.errors import BadInput
from versconfig import impact

if TYPE_CHECKING:
    from lieutenants.agents.events import Event, Screening
    from lieutenants.agents.pi.program import Agent
    from lieutenants.isolation.homes import Home
    from versconfig.screening.screen import Screen
    from vmtree.models import Node

ATTENDANT = Path(__file__).with_name("attend.py")


class PiDialect:
    """See `base.Dialect`."""

    name = "pi"
    label = "pi: a coding agent"
    features = Features(
        steering=True,
        queue=True,
        rewind=True,
        session=True,
        models=True,
        context=True,
        images=True,
        export=True,
        dialogs=True,
        default_model=True,
    )
    withheld: frozenset[str] = frozenset()
    presets: Mapping[str, Preset] = {}
    option_names: Sequence[str] = ()
    usual_programs: Sequence[str] = program.REMOTE_PATHS
    remote_helpers: Sequence[Path] = (ATTENDANT,)
    attendant = ATTENDANT.name
    warnings: Sequence[str] = (model_choice.RESTORE_WARNING,)

    def register_hooks(self) -> None:
        """Register the finder of agents that a changed config key requires to restart."""
        impact.restart_finders.register(config.lieutenants_to_restart)

    def host_problem(self) -> str:
        """Return why no pi can start here; empty if one can."""
        return program.agent_problem()

    def check_host(self) -> HostCheck:
        """Check the `pi` of PI_PATH, or else on PATH."""
        return check.check_host()

    def check_command(self, command: Sequence[str]) -> None:
        """Reject a command line: pi has its own."""
        if command:
            raise BadInput("command: is for the agents 'command' and 'acp' only", "command")

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Reject any: it has no settings of its own."""
        return no_options(self.name, options)

    def excess_of(
        self, own: Lieutenant, agent: str, command: Sequence[str], options: Mapping[str, Any]
    ) -> str:
        """Return nothing: it does not ask before it acts."""
        return ""

    def check_new_program(self, command: Sequence[str]) -> None:
        """Raise AgentMissing if there is no pi on this host."""
        program.find_agent()

    def find_program(self, lieutenant: Lieutenant | None = None) -> Program:
        """Return the pi of this host. Raises AgentMissing."""
        agent = program.find_agent()
        return Program(
            label=str(agent),
            argv=agent.argv(),
            stop_seconds=agent.stop_seconds,
            files=[agent.path, *_files_of(agent)],
            state=_state_of(agent),
        )

    def problem_of(self, program_: Program) -> str:
        """Return why the program is not the agent, after running it; empty if it is."""
        return check.problem_of(program.find_agent())

    def check_config(self) -> None:
        """Raise AgentMisconfigured if one of pi's JSON files cannot be read."""
        settings_file.check_all()

    def config_folder(self) -> Path | None:
        """Return the folder with pi's settings, models and logins."""
        return settings.AGENT_CONFIG_DIR

    def complete_config(self, folder: Path) -> None:
        """Add defaults to `settings.json`, reef's tools to `mcp.json`, and the extension.

        Only the agent may read the files with keys.
        """
        settings_file.add_defaults(folder)
        mcp_file.add_reef(folder, settings.INFRA_URL)
        extension.write(folder)
        for name in settings_file.CREDENTIALS:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).chmod(0o400)

    def prepare(self, lieutenant: Lieutenant, home: Home) -> Preparation:
        """Check the session file, and choose the model. Raises SessionDamaged, OSError."""
        session_file = home.session / lieutenant.session_name
        # An agent skips what it cannot read, so the file is checked first.
        notes = session_files.check(lieutenant, session_file)
        return _prepare(lieutenant, home, program.find_agent(), notes)

    def remote_programs(self, lieutenant: Lieutenant) -> Sequence[str]:
        """Return pi on PATH, and where the bootloader installs it."""
        return program.REMOTE_PATHS

    def remote_files(self, lieutenant: Lieutenant, home: Home) -> Sequence[str]:
        """Return the session file."""
        return [str(home.session / lieutenant.session_name)]

    def find_remote_program(self, lieutenant: Lieutenant, machine: RemoteMachine) -> Program:
        """Return the pi of the VM. Raises AgentMissing."""
        agent = program.find_remote_agent(machine)
        return Program(
            label=str(agent),
            argv=[str(agent.path)],
            stop_seconds=agent.stop_seconds,
            state=_state_of(agent),
        )

    def prepare_remote(
        self, lieutenant: Lieutenant, home: Home, machine: RemoteMachine
    ) -> Preparation:
        """Check that the session file is there, and choose the model. Raises SessionDamaged."""
        session_file = home.session / lieutenant.session_name
        size = machine.sizes.get(str(session_file))
        notes = session_files.check_size(lieutenant, session_file, size)
        return _prepare(lieutenant, home, program.find_remote_agent(machine), notes)

    def remote_config(self, address: str) -> Mapping[str, str]:
        """Return models, logins, settings and reef's tools. Raises OSError."""
        folder = settings.AGENT_CONFIG_DIR
        tools = {
            mcp_file.NAME: mcp_file.text_of(folder, address),
            extension.NAME: extension.text(),
        }
        return {**settings_file.texts(folder), **tools}

    def check_model(self, lieutenant: Lieutenant, model: str) -> None:
        """Raise BadInput if the running agent does not have this model."""
        model_choice.check_model(lieutenant, model)

    def check_new_model(self, model: str, parent: Node | None, folder: str) -> None:
        """Raise BadInput if agents of this node's configuration do not have this model."""
        model_choice.check_new_model(model, parent, folder)

    def matches_model(self, wanted: str, names: Sequence[str]) -> bool:
        """Return whether pi would choose a model with one of these names."""
        return model_choice.matches(wanted, names)

    def decode(self, payload: dict[str, Any], screening: Screening) -> Event | None:
        """Decode a report, see `decode.py`."""
        return decode.decode(payload, screening)

    def is_command(self, text: str) -> bool:
        """Return whether the text begins with a slash, as commands and templates do."""
        return text.startswith("/")

    def is_info(self, note: str) -> bool:
        """Return whether the note is only about a new session."""
        return note == session_files.NEW_SESSION_NOTE

    def is_model_warning(self, note: str) -> bool:
        """Return whether pi warns that the session's model is gone; it names both models."""
        return model_choice.RESTORE_WARNING in note

    def check_images(self, lieutenant: Lieutenant) -> None:
        """Raise BadInput if the model in use takes text only, by the agent's own list."""
        model_choice.check_images(lieutenant)

    def export_html(self, lieutenant: Lieutenant, screen: Screen) -> bytes:
        """Return the page that `pi --export` makes."""
        return export.export_html(lieutenant, screen, self.find_program)

    def send_message(
        self, message_id: str, text: str, *, steer: bool, images: Sequence[Image] = ()
    ) -> Outgoing:
        """Build `prompt`."""
        return rpc.prompt(message_id, text, steer=steer, images=images)

    def abort(self, command_id: str) -> Outgoing:
        """Build `abort`."""
        return rpc.simple("abort", command_id)

    def clear_queue(self, command_id: str) -> Outgoing:
        """Build `clear_queue`."""
        return rpc.simple("clear_queue", command_id)

    def query_state(self, command_id: str) -> Outgoing:
        """Build `get_state`."""
        return rpc.simple("get_state", command_id)

    def list_models(self, command_id: str) -> Outgoing | None:
        """Build `get_available_models`."""
        return rpc.simple("get_available_models", command_id)

    def query_context(self, command_id: str) -> Outgoing | None:
        """Build `get_session_stats`."""
        return rpc.simple("get_session_stats", command_id)

    def dismiss_dialog(self, request_id: str) -> Outgoing:
        """Build the reply to an `extension_ui_request`."""
        return rpc.dismiss(request_id)

    def answer_dialog(self, request_id: str, kind: str, answer: str | bool) -> Outgoing:
        """Build the reply to an `extension_ui_request`."""
        return rpc.answer_dialog(request_id, answer)

    def list_messages(self, command_id: str) -> Outgoing:
        """Build `get_fork_messages`."""
        return rpc.simple("get_fork_messages", command_id)

    def fork(self, command_id: str, entry_id: str) -> Outgoing:
        """Build `fork`."""
        return Outgoing(command_id, {"id": command_id, "type": "fork", "entryId": entry_id})


def _prepare(lieutenant: Lieutenant, home: Home, agent: Agent, notes: list[str]) -> Preparation:
    session = str(home.session / lieutenant.session_name)
    arguments = ["--mode", "rpc", "--session", session, "--session-dir", str(home.session)]
    arguments += ["--append-system-prompt", str(home.prompt)]
    if agent.needs_extension and settings.AGENT_TOOLS:
        arguments += ["-e", str(home.config / extension.NAME)]
    stored = config.provider_keys(lieutenant)
    model = config.model_for(lieutenant)
    Lieutenant.objects.filter(pk=lieutenant.pk).update(
        model_wanted=model, model_problem="", session_problem=""
    )
    if model:
        arguments += ["--model", model]
    quiet = {"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"}
    return Preparation(
        arguments=arguments,
        environment={**stored.environment, "PI_CODING_AGENT_DIR": str(home.config), **quiet},
        heal=[session],
        state={"notes": notes, "secret_versions": stored.versions},
    )


def _state_of(agent: Agent) -> dict[str, bool]:
    # An agent of unknown version is tried: at worst it does not know the command.
    clears_queue = agent.clears_queue or not agent.version
    return {"clears_queue": clears_queue, "settles": agent.reports_idle}


def _files_of(agent: Agent) -> Iterator[Path]:
    """Yield the packages and interpreters that the agent needs, beside its program."""
    yield from _package_of(agent.path.resolve())
    yield from interpreter_of(agent.path)
    if agent.script:
        yield from _package_of(agent.script.resolve())
    if agent.node:
        yield from prefix_of(Path(agent.node))
    yield Path(program.__file__).parent / "node"


def _package_of(script: Path) -> list[Path]:
    """Return the outermost `node_modules` that contains a script, else the script alone."""
    outer = [folder for folder in script.parents if folder.name == "node_modules"]
    return [outer[-1]] if outer else [script]
