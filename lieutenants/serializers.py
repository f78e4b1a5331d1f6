"""JSON of lieutenants, messages, entries and usage, and validation of request bodies.

Deployed agents rely on key order, absent keys and texts; add new keys at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.conf import settings

from lieutenants import agents
from lieutenants.hosts import liveness
from lieutenants.messages.outcomes import Result, result_of, results_of
from lieutenants.models import Entry, Lieutenant, Message, Usage
from lieutenants.services import CreateLieutenant
from lieutenants.sessions import failure_series
from lieutenants.states import RestartPolicy, Status
from lieutenants.transcript import outputs
from reef_site.common.errors import BadInput
from reef_site.common.request_values import choice_of, flag_of, number_of, text_of
from vmtree import aliases, permissions

MAX_ENTRIES = 1000
# Limit of one output, and of all entries of a page but the first.
MAX_CHARACTERS = 1_000_000

Json = dict[str, Any]

# Fields of the request body that creates a lieutenant.
CREATE_FIELDS = (
    *("name", "role", "local", "model", "directive", "folder", "restartPolicy", "parentVmId"),
    *("idleLimitMinutes", "stallLimitSeconds", "toolLimitSeconds", "vmId", "commitId", "provider"),
    *("agent", "command"),
)
_WIRE_KEYS = {"cache_read": "cacheRead", "cache_write": "cacheWrite"}


# Keys for every reader of the fleet. The others show transcripts or how the lieutenant runs.
PUBLIC_KEYS = (
    *("id", "name", "role", "vmId", "isLocal", "status", "taskCount", "createdAt"),
    *("lastActivityAt", "model", "parentAgent", "statusSince", "stalled", "host"),
)


# Keys that `?brief=true` omits.
LONG_KEYS = ("lastOutput", "outputHistory", "systemPrompt", "lastOutputLength", "outputLengths")


def lieutenants_json(
    lieutenants: Iterable[Lieutenant], *, caller: object, brief: bool = False
) -> list[Json]:
    """Return lieutenants as JSON, with only the PUBLIC_KEYS where the caller may not read more.

    `brief` omits the LONG_KEYS. The number of queries grows only with the numbers of running
    lieutenants and of very long answers.
    """
    rows = list(lieutenants)
    liveness.annotate_trouble(rows)
    pks = permissions.readable_among(
        caller, permissions.Action.READ_TRANSCRIPT, (row.pk for row in rows)
    )
    history = {} if brief else outputs.newest_answers(pks)
    running = {} if brief else outputs.running_outputs(pks)
    sums = Usage.objects.sums_by_lieutenant(list(pks))
    found = [
        _lieutenant_json(row, history.get(row.pk, []), running.get(row.pk), sums.get(row.pk))
        if row.pk in pks
        else _public_json(row)
        for row in rows
    ]
    if brief:
        return [{key: each[key] for key in each if key not in LONG_KEYS} for each in found]
    return found


def _public_json(row: Lieutenant) -> Json:
    facts = _lieutenant_json(row, [], None, None)
    return {key: facts[key] for key in PUBLIC_KEYS if key in facts}


def _optional_facts(row: Lieutenant) -> Iterable[tuple[str, Any]]:
    """Return the keys that are absent when their value is empty, and never null."""
    return (
        ("model", row.model),
        ("parentAgent", row.parent_agent),
        ("modelInUse", row.model_in_use),
        ("error", row.error),
        ("trouble", row.trouble),
        ("waitingFor", row.waiting_for),
        ("waitingSince", row.waiting_since),
        ("failing", failure_series.as_json(row)),
        ("rewindingTo", row.rewind_to),
        ("sessionProblem", row.session_problem),
        ("modelWanted", row.model_wanted if row.model_problem else ""),
        ("modelProblem", row.model_problem),
        ("restartAt", row.restart_at),
        ("idleLimitMinutes", row.idle_limit_minutes),
        ("isolation", row.isolation),
    )


def _lieutenant_json(
    row: Lieutenant,
    history: list[outputs.Excerpt],
    running: outputs.Output | None,
    sums: Mapping[str, Any] | None,
) -> Json:
    running = running or outputs.Output([])
    facts: Json = {
        "id": row.pk,
        "name": row.name,
        "role": row.role,
        "vmId": f"local-{row.name}",
        "isLocal": True,
        "status": row.status,
        "lastOutput": running.tail(outputs.MAX_SHOWN),
        "outputHistory": [each.text for each in history],
        "taskCount": row.task_count,
        "createdAt": row.created_at,
        "lastActivityAt": max(row.last_activity_at, row.status_since),
        "systemPrompt": row.system_prompt,
    }
    facts |= {key: value for key, value in _optional_facts(row) if value}
    facts |= {
        "statusSince": row.status_since,
        "stalled": row.stalled,
        "host": row.host,
        "folder": row.folder,
        "restartPolicy": row.restart_policy,
        "restarts": row.restarts,
        "stallLimitSeconds": row.stall_limit_seconds,
        "toolLimitSeconds": row.tool_limit_seconds,
        "usage": usage_json(sums),
        "rev": row.rev,
        "agent": row.agent,
    }
    if row.command:
        facts["command"] = row.command
    # Full lengths of the texts that are shortened here.
    if running.length > outputs.MAX_SHOWN:
        facts["lastOutputLength"] = running.length
    if any(each.is_cut for each in history):
        facts["outputLengths"] = [each.length for each in history]
    if row.context_usage is not None:
        facts["contextUsage"] = row.context_usage
    return facts


def read_json(row: Lieutenant, *, tail: int, history: int, after: int, limit: int) -> Json:
    """Return the response of `read`: the running answer, or the newest finished one.

    With `limit`, return that many characters from position `after` on; `next` is the next position.
    """
    answers = [each.text for each in outputs.newest_answers([row.pk]).get(row.pk, [])]
    output = outputs.newest_output(row.pk, is_working=row.status == Status.WORKING)
    length = output.length
    facts: Json = {
        "name": row.name,
        "status": row.status,
        "taskCount": row.task_count,
        "outputLength": length,
        "historyCount": len(answers),
    }
    if limit:
        shown = output.slice(after, min(limit, MAX_CHARACTERS))
        end = after + len(shown)
        return {**facts, "output": shown, "next": end if end < length else None}
    most = min(tail or MAX_CHARACTERS, MAX_CHARACTERS)
    shown = f"...{output.tail(most)}" if most < length else output.slice(0, length)
    shown = shown or "(no output yet)"
    if history:
        running = outputs.running_outputs([row.pk]).get(row.pk)
        if not (running and running.length) and row.status != Status.WORKING:
            # The newest answer is the last one in `parts`.
            shown = "(no output yet)"
        first = max(0, len(answers) - history)
        numbered = enumerate(answers[first:], start=first + 1)
        parts = [f"=== Response {number} ===\n{text}\n" for number, text in numbered]
        shown = "\n".join([*parts, f"=== Current ({row.status}) ===\n{shown}"])
    return {**facts, "output": shown}


def message_json(message: Message) -> Json:
    """Return a message with its outcome and answer."""
    result = result_of(message)
    output = result.answer()
    answer = output.tail(MAX_CHARACTERS) if output and output.length else None
    cut = {"answerLength": output.length} if output and output.length > MAX_CHARACTERS else {}
    return {**_message_json(message, result), "answer": answer, **cut}


def messages_json(messages: Sequence[Message]) -> list[Json]:
    """Return messages without their answers."""
    results = results_of(messages)
    return [_message_json(message, results[message.pk]) for message in messages]


def _message_json(message: Message, result: Result) -> Json:
    cut = {"textLength": message.left_out + outputs.MAX_SHOWN} if message.left_out else {}
    return {
        "id": message.pk,
        "text": message.text,
        "mode": message.mode,
        "modeAsked": message.mode_asked,
        "note": message.note or None,
        "actor": message.actor,
        "state": message.state,
        "evidence": message.evidence,
        "createdAt": message.created_at,
        "deliveredAt": message.delivered_at,
        "decidedAt": message.decided_at,
        "takenUpAt": message.taken_up_at,
        "usage": usage_json(Usage.objects.filter(message=message).sums()),
        "outcome": result.outcome.value,
        "answerId": result.answer_id,
        "error": result.error or None,
        **cut,
    }


def sent_json(message: Message) -> Json:
    """Return the response of `send`, old keys first."""
    facts: Json = {"sent": True, "mode": message.mode}
    if message.note:
        facts["note"] = message.note
    return {**facts, "messageId": message.pk, "state": message.state}


def entry_json(entry: Entry, text: str | None = None) -> Json:
    """Return a transcript entry; `text` replaces one that is incomplete or too long."""
    facts: Json = {
        "id": entry.pk,
        "kind": entry.kind,
        "at": entry.at,
        "text": entry.text if text is None else text,
        "final": entry.final,
        "rev": entry.rev,
        "answerId": entry.answer_id,
        "messageId": entry.message_id,
    }
    if entry.tool or entry.call_id:
        facts |= {"tool": entry.tool, "callId": entry.call_id}
    if entry.kind == Entry.Kind.TOOL_CALL:
        facts["arguments"] = entry.data.get("arguments")
    elif entry.data:
        facts["data"] = {_WIRE_KEYS.get(key, key): value for key, value in entry.data.items()}
    if entry.is_error:
        facts["isError"] = True
    return facts


def usage_json(sums: Mapping[str, Any] | None) -> Json:
    """Return tokens by class, and the cost in dollars."""
    sums = sums or {}
    return {
        "input": sums.get("total_input") or 0,
        "output": sums.get("total_output") or 0,
        "cacheRead": sums.get("total_cache_read") or 0,
        "cacheWrite": sums.get("total_cache_write") or 0,
        "cost": float(sums.get("total_cost") or 0),
        "calls": sums.get("calls") or 0,
    }


# -- request bodies --------------------------------------------------------------------------------


def parse_create(data: Json) -> CreateLieutenant:
    """Return the request to create a lieutenant. Raises BadInput with the texts of the contract."""
    for name in ("name", "role"):
        if not isinstance(data.get(name), str) or not data[name].strip():
            raise BadInput(f"{name} is required", name)
    local = data.get("local")
    far = any(data.get(key) for key in ("vmId", "commitId", "provider"))
    remote = far if local is None else not flag_of(local, "local")
    return CreateLieutenant(
        name=data["name"],
        role=data["role"],
        model=_text(data, "model"),
        directive=_text(data, "directive"),
        folder=_text(data, "folder"),
        restart_policy=_text(data, "restartPolicy") or RestartPolicy.NEVER,
        idle_limit_minutes=_number(data, "idleLimitMinutes", least=1, most=525_600),
        stall_limit_seconds=_number(data, "stallLimitSeconds", least=0, most=604_800),
        tool_limit_seconds=_number(data, "toolLimitSeconds", least=0, most=2_592_000),
        remote=remote,
        parent_vm_id=aliases.resolve(_text(data, "parentVmId").strip()),
        agent=_text(data, "agent") or agents.DEFAULT,
        command=_texts(data, "command"),
    )


ADJUSTABLE_FIELDS = (
    *("model", "restartPolicy", "idleLimitMinutes"),
    *("stallLimitSeconds", "toolLimitSeconds"),
)


def parse_changes(data: Json) -> tuple[Json, bool]:
    """Return the changes by column, and whether to restart now. Raises BadInput."""
    given = [key for key in ADJUSTABLE_FIELDS if key in data]
    if not given:
        also = "; POST …/restart starts the agent again as it is" if "restart" in data else ""
        raise BadInput(f"body: must have one of {', '.join(ADJUSTABLE_FIELDS)}{also}")
    changes: Json = {}
    if "model" in given:
        changes["model"] = _text(data, "model").strip() or settings.DEFAULT_MODEL
    if "restartPolicy" in given:
        changes["restart_policy"] = _text(data, "restartPolicy") or RestartPolicy.NEVER
    if "idleLimitMinutes" in given:
        changes["idle_limit_minutes"] = _number(data, "idleLimitMinutes", least=1, most=525_600)
    if "stallLimitSeconds" in given:
        stall = _number(data, "stallLimitSeconds", least=0, most=604_800)
        changes["stall_limit_seconds"] = settings.STALL_SECONDS if stall is None else stall
    if "toolLimitSeconds" in given:
        tools = _number(data, "toolLimitSeconds", least=0, most=2_592_000)
        changes["tool_limit_seconds"] = settings.TOOL_SECONDS if tools is None else tools
    return changes, flag_of(data.get("restart", False), "restart")


def parse_message_reference(data: Json) -> tuple[str, int | None]:
    """Return `messageId` and `entryId`. Raises BadInput."""
    return _text(data, "messageId"), _number(data, "entryId", least=1, most=1 << 53)


def is_new_session(data: Json) -> bool:
    """Return whether to begin a new session. Raises BadInput."""
    session = _text(data, "session")
    return bool(session) and choice_of(session, "session", ("kept", "new")) == "new"


def _text(data: Json, name: str) -> str:
    """Return the text as it was sent; services check its characters and length."""
    return text_of(data.get(name), name, optional=True, strip=False, accepts=lambda _text: True)


def _texts(data: Json, name: str) -> tuple[str, ...]:
    value = data.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadInput(f"{name}: must be a list of texts", name)
    return tuple(value)


def _number(data: Json, name: str, *, least: int, most: int) -> int | None:
    value = data.get(name)
    return None if value is None else number_of(value, name, least=least, most=most)
