"""The tool that waits."""

from __future__ import annotations

from typing import Any

from bootloader import checkpoints
from bootloader.provisioning import services as provisioning
from lieutenants import awaited_events, services
from lieutenants.conditions import Conditions
from lieutenants.membership import vm_id_of
from lieutenants.messages.signals import is_sender
from lieutenants.models import Lieutenant, Message
from lieutenants.questions import services as questions
from reef_site.common.api.fields import AnyText, Choice, ListOf, Text, Timestamp, WholeNumber
from reef_site.common.api.serializers import Body
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.tools import Fields, Tool, ToolResult
from vmtree import aliases, permissions
from vmtree.fields import AnyVM
from vmtree.permissions import Action

Json = dict[str, Any]
MAX_SUBJECTS = 100
MAX_SECONDS = 3600
# Less than the usual time limit of clients, which is a minute.
DEFAULT_SECONDS = 45
MAX_KINDS = 20
SUBJECTS = ("lieutenants", "vms", "provisionings", "messages", "calls", "questions", "event")


class Names(ListOf):
    def __init__(self, help_text: str) -> None:
        super().__init__(Text(), most=MAX_SUBJECTS, default=list, help_text=help_text)


class EventArgument(Body):
    """Conditions of an event, as `GET /events` has them; those that are given must all hold."""

    kind = ListOf(
        Text(length=60),
        most=MAX_KINDS,
        of="kinds",
        default=list,
        source="kinds",
        help_text="One of these kinds, such as vm.late or lieutenant.idle, or of these topics, "
        "such as vm. Empty for any.",
    )
    subject = AnyVM(
        default="", help_text="About this VM, lieutenant (its name or id), question, config key …"
    )
    subtree = AnyVM(default="", help_text="About this VM or lieutenant, or one below it.")
    actor = AnyText(default="", help_text="By this caller.")
    since = Timestamp(
        required=False,
        help_text="From this time on. Without it and cursor: from the time of the call on.",
    )
    cursor = WholeNumber(required=False, help_text="Behind the event with this number.")


class WaitArguments(Body):
    lieutenants = Names("Names: until they are idle, or stopped.")
    vms = Names("VM ids: until they are live.")
    provisionings = Names("Ids: until they are done, or have failed.")
    messages = Names("Ids of messages or signals that you sent: until they have an outcome.")
    calls = Names("Ids of calls to a provider: until they are done.")
    questions = Names("Ids of your questions: until they are decided.")
    event = Fields(
        EventArgument, required=False, help_text="Until an event of the log that you may read."
    )
    until = Choice(("all", "any"), default="all", help_text="Wait for all of these, or for any.")
    seconds = WholeNumber(
        most=MAX_SECONDS,
        default=DEFAULT_SECONDS,
        help_text="Wait at most this long. Over HTTP a call ends after a minute at the latest.",
    )


def wait(caller: object, arguments: Json) -> ToolResult:
    event = arguments.get("event")
    if event is None and not any(arguments.get(name) for name in SUBJECTS):
        raise BadInput(f"body: must have one of {', '.join(SUBJECTS)}", "body")
    conditions = Conditions(
        seconds=arguments["seconds"],
        any=arguments["until"] == "any",
        lieutenants=[_lieutenant(each) for each in arguments["lieutenants"]],
        vms=[aliases.resolve(each) for each in arguments["vms"]],
        provisionings=[_provisioning(caller, each) for each in arguments["provisionings"]],
        messages=[_message(caller, each) for each in arguments["messages"]],
        questions=[questions.find(each, actor=caller).pk for each in arguments["questions"]],
        calls=[checkpoints.find_call(each, by=caller).pk for each in arguments["calls"]],
        event=None if event is None else awaited_events.begin(caller, _with_ids(event)),
    )
    state = conditions.state()
    is_done = state["details"]["done"] or not conditions.seconds
    return ToolResult(**state, wait="" if is_done else conditions.header())


def _provisioning(caller: object, provisioning_id: str) -> str:
    """Return the id of a provisioning that the caller may read. Raises NotFound, Forbidden."""
    row = provisioning.find(provisioning_id)
    permissions.check(caller, Action.READ, row.vm_id or row.parent_vm_id or None)
    return row.pk


def _lieutenant(name_or_id: str) -> str:
    """Return the id of a lieutenant. Raises NotFound with the name: several may be given."""
    try:
        return services.find_any(name_or_id).pk
    except NotFound:
        raise NotFound(f"Lieutenant '{name_or_id[:40]}' not found") from None


def _with_ids(event: Json) -> Json:
    """Return the conditions of an event with ids of lieutenants in place of their names."""
    names = {event["subject"], event["subtree"]} - {""}
    rows = Lieutenant.objects.active().filter(name__in=names).values_list("name", "pk")
    ids = dict(rows) if names else {}
    more = {key: ids.get(event[key], event[key]) for key in ("subject", "subtree")}
    return {**event, **more}


def _message(caller: object, message_id: str) -> str:
    """Return the id of a message that the caller sent, or may read. Raises NotFound, Forbidden."""
    message = Message.objects.select_related("lieutenant").filter(pk=message_id).first()
    if message is None:
        raise NotFound(f"Message '{message_id[:40]}' not found")
    if not is_sender(caller, message):
        vm_id = vm_id_of(message.lieutenant)
        permissions.check(caller, Action.READ_TRANSCRIPT, vm_id)
    return message.pk


TOOLS = (
    Tool(
        "reef_wait",
        "Wait until lieutenants are idle, VMs are live, provisionings are done, messages that you "
        "sent have been processed, your questions are decided, or an event comes. Use it instead "
        "of asking again and again.",
        WaitArguments,
        wait,
        read_only=True,
    ),
)
