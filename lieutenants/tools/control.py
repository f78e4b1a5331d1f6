"""Tools that create, pause, resume and destroy lieutenants, and send them messages."""

from __future__ import annotations

from typing import Any

from bootloader.grants import budgets
from lieutenants import services
from lieutenants.hosts import liveness
from lieutenants.membership import vm_id_of
from lieutenants.messages.serializers import sent_json
from lieutenants.models import Lieutenant
from lieutenants.requests import AgentChoice, CreateBody, RequiredText, to_creation
from lieutenants.serializers import lieutenants_json
from lieutenants.states import Mode
from reef_site.common.api.fields import Choice, Flag, Text
from reef_site.common.api.serializers import Body
from reef_site.common.tools import NoArguments, Tool, ToolResult
from vmtree.permissions import Action

Json = dict[str, Any]
SHOWN_MESSAGE = 120
ALL = "*"


class AgentArgument(AgentChoice):
    """The same choice as in the API."""

    def schema(self) -> Json:
        kinds, as_object = super().schema()["oneOf"]
        names = [each for each in kinds["enum"] if each]
        # Not every provider of models takes null among the values, or `oneOf`.
        return {"anyOf": [{"type": "string", "enum": names}, as_object]}


class CreateArguments(Body):
    name = RequiredText(help_text="Its name: letters, digits, dots, dashes and underscores.")
    role = RequiredText(help_text="What it is for, in a sentence.")
    local = Flag(default=True, help_text="False: on a VM of its own.")
    model = Text(required=False, help_text="`provider/model`; absent for the default.")
    commitId = Text(required=False, help_text="Saved machine to make its VM from.")
    profile = Text(required=False, help_text="Profile to make its VM by.")
    parentVmId = Text(required=False, help_text="VM id of its parent; absent for yourself.")
    directive = Text(required=False, help_text="More for its system prompt.")
    agent = AgentArgument(
        help_text="Its kind of agent, or an object with its dialect, preset or command, and its "
        "settings; absent for the default. It may permit no more than your own."
    )


class NameArguments(Body):
    name = RequiredText(help_text="Name of the lieutenant.")


class SendArguments(NameArguments):
    message = RequiredText(help_text="Text of the message.")
    mode = Choice(
        Mode.values,
        required=False,
        help_text="prompt: a task (default); steer: into the running answer; followUp: after it.",
    )


class DestroyArguments(Body):
    name = RequiredText(help_text="Name of the lieutenant, or * for all that you may destroy.")


def create(caller: object, arguments: Json) -> ToolResult:
    if arguments.get("commitId") or arguments.get("profile"):
        arguments = {**arguments, "local": False}
    chosen = arguments.pop("agent", None)
    creation = to_creation({**CreateBody.parse_data(arguments), "agent": chosen})
    lieutenant = services.create(creation, actor=caller)
    facts = lieutenants_json([lieutenant], caller=caller)[0]
    where = "[local]" if facts["isLocal"] else f"[VM: {facts['vmId']}]"
    head = f'Lieutenant "{facts["name"]}" is ready {where}.'
    lines = [head, f"  Role: {facts['role']}", f"  Status: {facts['status']}"]
    if note := budgets.warning_of(vm_id_of(lieutenant)):
        lines.append(f"  Note: {note}")
        facts["note"] = note
    return ToolResult("\n".join(lines), {"lieutenant": facts})


def send(caller: object, arguments: Json) -> ToolResult:
    name, text = arguments["name"], arguments["message"]
    message, _ = services.send(name, text, mode=arguments.get("mode"), actor=caller)
    shown = text[:SHOWN_MESSAGE] + ("..." if len(text) > SHOWN_MESSAGE else "")
    note = f" ({message.note})" if message.note else ""
    return ToolResult(f'Sent to {name} ({message.mode}){note}: "{shown}"', sent_json(message))


def pause(caller: object, arguments: Json) -> ToolResult:
    name = arguments["name"]
    lieutenant = services.pause(name, actor=caller)
    text = f'Lieutenant "{name}" paused. Use reef_lt_resume to wake it.'
    return _done(lieutenant, "paused", text)


def resume(caller: object, arguments: Json) -> ToolResult:
    name = arguments["name"]
    lieutenant = services.resume(name, actor=caller)
    return _done(lieutenant, "resumed", f'Lieutenant "{name}" resumed. Ready for tasks.')


def destroy(caller: object, arguments: Json) -> ToolResult:
    name = arguments["name"]
    if name == ALL:
        results = services.destroy_all(actor=caller)
        text = "\n".join(results) or "No lieutenants to destroy."
        return ToolResult(text, {"results": results})
    detail = services.destroy(name, actor=caller)
    return ToolResult(detail, {"destroyed": True, "detail": detail})


def discover(caller: object, _arguments: Json) -> ToolResult:
    results = services.discover(actor=caller)
    return ToolResult("\n".join(["Discovery results:", *results]), {"results": results})


def _done(lieutenant: Lieutenant, key: str, text: str) -> ToolResult:
    """Return the result of an action, or that its host will do it when it responds again."""
    if note := liveness.pending_note(lieutenant):
        return ToolResult(f"{lieutenant.name}: {note}", {key: False, "asked": True, "note": note})
    return ToolResult(text, {key: True})


TOOLS = (
    Tool(
        "reef_lt_create",
        "Create a lieutenant: a named agent below you that keeps its session from task to task. "
        "It starts in the background; reef_wait tells when it is idle.",
        CreateArguments,
        create,
        action=Action.START_BELOW,
    ),
    Tool(
        "reef_lt_send",
        "Send a message to a lieutenant. While it works, a prompt is queued as a follow-up. "
        "reef_wait tells when it is done; reef_lt_read shows the answer.",
        SendArguments,
        send,
        action=Action.SEND,
    ),
    Tool(
        "reef_lt_pause",
        "Pause a lieutenant: its agent stops, its session stays.",
        NameArguments,
        pause,
        action=Action.COMMAND,
    ),
    Tool(
        "reef_lt_resume",
        "Resume a paused lieutenant in its session.",
        NameArguments,
        resume,
        action=Action.START,
    ),
    Tool(
        "reef_lt_destroy",
        "Destroy a lieutenant for good, or all that you may destroy. Transcripts stay.",
        DestroyArguments,
        destroy,
        destructive=True,
        action=Action.DESTROY,
    ),
    Tool(
        "reef_lt_discover",
        "Look for running agents that are not followed, and follow them again.",
        NoArguments,
        discover,
        action=Action.COMMAND,
        on_fleet=True,
    ),
)
