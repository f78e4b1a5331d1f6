"""Tools that show lieutenants, their answers, transcripts and usage."""

from __future__ import annotations

from typing import Any

from bootloader.grants import budgets
from bootloader.grants.serializers import budget_json
from lieutenants import services
from lieutenants.membership import vm_id_of
from lieutenants.models import Entry, Lieutenant, Usage
from lieutenants.requests import RequiredText
from lieutenants.serializers import lieutenants_json
from lieutenants.tools.control import NameArguments
from lieutenants.transcript import outputs
from lieutenants.transcript.recorder import texts_of_open
from lieutenants.transcript.serializers import entries_json, read_json, usage_json
from lieutenants.usage import tables
from lieutenants.usage.serializers import GROUPS, ZoneName
from reef_site.common.api.fields import Choice, Cursor, Text, Timestamp, WholeNumber
from reef_site.common.api.serializers import Body
from reef_site.common.clock import format_timestamp
from reef_site.common.tools import NoArguments, Tool, ToolResult, json_text
from vmtree import permissions
from vmtree.fields import AnyVM
from vmtree.permissions import Action

Json = dict[str, Any]
SHOWN_VM_ID = 12
MAX_ENTRIES = 500
ICONS = {"working": "~", "idle": "*", "paused": "||", "error": "X"}
OTHER_ICON = "o"


class ReadArguments(NameArguments):
    tail = WholeNumber(default=0, help_text="Only this many characters at the end.")
    history = WholeNumber(default=0, help_text="Also this many earlier answers.")


class TranscriptArguments(Body):
    name = RequiredText(help_text="Name of the lieutenant, or the id of a destroyed one.")
    cursor = Cursor(default=0, help_text="Id of the last entry that you have; absent for all.")
    limit = WholeNumber(least=1, most=MAX_ENTRIES, default=50, help_text="Number of entries.")
    textLimit = WholeNumber(default=2000, help_text="Shorten longer texts to both ends; 0: never.")


class UsageArguments(Body):
    name = Text(required=False, help_text="Only this lieutenant; absent for all you may read.")
    by = Choice(GROUPS, required=False, help_text="Report by this instead; of all, not of `name`.")
    since = Timestamp(required=False, help_text="With `by`: absent for seven days.")
    zone = ZoneName(required=False, length=64, help_text="With `by`: whose days; absent for UTC.")
    below = AnyVM(required=False, help_text="With `by`: only this VM and its descendants.")


def status(caller: object, _arguments: Json) -> ToolResult:
    found = lieutenants_json(Lieutenant.objects.active(), caller=caller, brief=True)
    text = "\n\n".join(map(_block, found)) or "No lieutenants active."
    return ToolResult(text, {"lieutenants": found})


def read(caller: object, arguments: Json) -> ToolResult:
    lieutenant = _readable(services.find(arguments["name"]), caller)
    tail, history = arguments["tail"], arguments["history"]
    facts = read_json(lieutenant, tail=tail, history=history, after=0, limit=0)
    head = f"[{facts['name']}] ({facts['status']}, {facts['taskCount']} tasks):"
    output = facts.pop("output")
    return ToolResult(f"{head}\n\n{output}", facts)


def transcript(caller: object, arguments: Json) -> ToolResult:
    lieutenant = _readable(services.find_any(arguments["name"]), caller)
    rows, more = outputs.page_of_entries(
        lieutenant,
        after=arguments["cursor"] or 0,
        limit=arguments["limit"],
        text_limit=arguments["textLimit"],
    )
    entries = entries_json(rows, texts_of_open(rows))
    # Usage has no text; `details` has its numbers.
    told = (each for each in entries if each["kind"] != Entry.Kind.USAGE)
    lines = [f"[{each['id']}] {each['kind']}: {_text_of(each)}" for each in told]
    following = entries[-1]["id"] if more else None
    if more:
        lines.append(f"There is more: cursor {following}.")
    text = "\n".join(lines) or "(nothing there)"
    return ToolResult(text, {"entries": entries, "count": len(entries), "next": following})


def usage(caller: object, arguments: Json) -> ToolResult:
    if arguments.get("by"):
        names = ("by", "since", "until", "zone", "below")
        table = tables.find(caller, {name: arguments.get(name) for name in names})
        found = {**table, "since": format_timestamp(table["since"])}
        found["until"] = format_timestamp(table["until"])
        return _with_budget(caller, found)
    rows = Usage.objects.all()
    if name := arguments.get("name"):
        rows = rows.filter(lieutenant=_readable(services.find_any(name), caller))
    elif (line := permissions.readable(caller, Action.READ_TRANSCRIPT)) is not None:
        rows = rows.filter(lieutenant__in=line.values("vm_id"))
    days = [{"day": str(row["day"]), **usage_json(row)} for row in rows.sums_by_day()]
    return _with_budget(caller, {"days": days, "total": usage_json(rows.sums())})


def _with_budget(caller: object, found: Json) -> ToolResult:
    """Return usage with the tightest budget of the caller; None if nothing limits it."""
    budget = budgets.tightest_for(caller)
    found = {**found, "budget": budget_json(budget)}
    return ToolResult(f"{json_text(found)}\nBudget: {budget or budgets.NO_LIMIT}.", found)


def _readable(lieutenant: Lieutenant, caller: object) -> Lieutenant:
    """Return the lieutenant if the caller may read its transcript. Raises Forbidden."""
    permissions.check(caller, Action.READ_TRANSCRIPT, vm_id_of(lieutenant))
    return lieutenant


def _block(facts: Json) -> str:
    machine = facts.get("machine")
    lines = [
        f"{ICONS.get(facts['status'], OTHER_ICON)} {facts['name']} [{facts['status']}]",
        f"  Role: {facts['role']}",
        "  local" if facts["isLocal"] else f"  VM: {facts['vmId'][:SHOWN_VM_ID]}",
        f"  Tasks: {facts['taskCount']}",
        f"  Last active: {format_timestamp(facts['lastActivityAt'])}",
    ]
    if waits := facts.get("waitingFor"):
        until = facts.get("waitingUntil")
        lines.append(
            f"  Waiting for: {waits}" + (f" until {format_timestamp(until)}" if until else "")
        )
    if sign := facts.get("nextSign"):
        late = "overdue, was due" if sign["overdue"] else "due"
        lines.append(f"  Next sign: {late} {format_timestamp(sign['at'])}, {sign['reason']}")
    if machine:
        heard = machine["lastHeardAt"]
        said = f", last heard {format_timestamp(heard)}" if heard else ""
        lines.append(f"  Machine: {machine['state']}{said}")
    return "\n".join(lines)


def _text_of(entry: Json) -> str:
    if "arguments" in entry:
        return f"{entry.get('tool')} {json_text(entry['arguments'])}"
    return str(entry["text"])


TOOLS = (
    Tool(
        "reef_lt_read",
        "Read what a lieutenant says: the running answer, or the newest finished one.",
        ReadArguments,
        read,
        read_only=True,
    ),
    Tool(
        "reef_lt_status",
        "List all lieutenants with role, status and number of tasks.",
        NoArguments,
        status,
        read_only=True,
    ),
    Tool(
        "reef_lt_transcript",
        "Read a lieutenant's transcript: messages, answers, tool calls and errors, in order.",
        TranscriptArguments,
        transcript,
        read_only=True,
    ),
    Tool(
        "reef_usage",
        "Show tokens and cost by day, of one lieutenant or of all that you may read, and how much "
        "of your budget is left.",
        UsageArguments,
        usage,
        read_only=True,
    ),
)
