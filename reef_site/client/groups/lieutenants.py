"""`reef lieutenants`"""

from __future__ import annotations

import argparse
from typing import Any

from reef_site.client import errors, output, waiting
from reef_site.client.commands import (
    DEFAULT_WAIT,
    Group,
    Options,
    add_wait,
    show,
    text_or_stdin,
    usage_error,
    whole_number,
)
from reef_site.client.completion import complete_lieutenants
from reef_site.client.errors import Refused
from reef_site.client.http import Api, part

Json = dict[str, Any]
PERMISSIONS = ("ask", "allow", "reject")
MODES = ("prompt", "steer", "followUp")
ROOT = "/lieutenant/lieutenants"
# Of lieutenants, messages, provisionings and calls.
FAILED_STATES = frozenset(
    {"error", "gone", "destroyed", "aborted", "interrupted", "failed", "cancelled"}
)


def add(group: Group) -> None:
    """Add the commands."""
    group.add("list", "list the lieutenants", list_all)
    _add_create(group)
    _add_send(group)
    parser = group.add("read", "print the running answer, or the newest one", read)
    _add_name(parser)
    parser.add_argument("--tail", type=whole_number, help="only so many characters at the end")
    parser.add_argument("--history", type=whole_number, help="also so many earlier answers")
    parser = group.add("status", "show the status of all or some lieutenants", status)
    _add_name(parser, "names", nargs="*")
    parser = group.add("wait", "wait until lieutenants are idle, or stopped", wait)
    _add_name(parser, "names", nargs="+")
    parser.add_argument("--any", action="store_true", help="one of them is enough")
    parser.add_argument(
        "--seconds", type=whole_number, default=DEFAULT_WAIT, help="at most (%(default)s)"
    )
    actions = {
        "pause": "stop the agent and keep its session",
        "resume": "start a paused lieutenant again in its session",
    }
    for name, about in actions.items():
        _add_name(group.add_tool(name, about, f"reef_lt_{name}", ["name"]))
    parser = group.add("destroy", "destroy a lieutenant; its transcript stays", destroy)
    _add_name(parser, nargs="?")
    parser.add_argument("--all", action="store_true", help="all that you may destroy")
    group.add_tool("discover", "follow running agents that nobody follows", "reef_lt_discover")


def _add_create(group: Group) -> None:
    parser = group.add("create", "create a lieutenant", create)
    parser.add_argument("name")
    parser.add_argument("role", help="what it is for")
    parser.add_argument("--model", help="provider/model")
    parser.add_argument("--on-vm", action="store_true", help="on a VM of its own")
    parser.add_argument("--profile", help="make its VM by this profile")
    parser.add_argument("--commit", dest="commitId", help="make its VM from this saved machine")
    parser.add_argument("--parent", dest="parentVmId", help="id of the VM above it in the tree")
    parser.add_argument("--directive", help="more for its system prompt")
    parser.add_argument(
        "--agent", metavar="KIND[:PRESET]", help="its kind of agent, such as pi or acp:goose"
    )
    parser.add_argument(
        "--permissions", choices=PERMISSIONS, help="what becomes of its requests for permissions"
    )
    add_wait(parser, "wait until it is idle")


def _add_send(group: Group) -> None:
    parser = group.add("send", "send a message to a lieutenant", send)
    _add_name(parser)
    parser.add_argument("message", help="its text; - for stdin")
    parser.add_argument("--mode", choices=MODES, help="steer: into the running answer")
    add_wait(parser, "wait for the answer, and print it")


def _add_name(
    parser: argparse.ArgumentParser, dest: str = "name", nargs: str | None = None
) -> None:
    action = parser.add_argument(dest, metavar="NAME", nargs=nargs, help="of a lieutenant")
    action.completer = complete_lieutenants  # type: ignore[attr-defined]


def list_all(api: Api, options: Options) -> None:
    result = api.call("reef_lt_status", {})
    head = ("NAME", "STATUS", "TASKS", "LAST ACTIVE", "ROLE")
    keys = ("name", "status", "taskCount", "lastActivityAt", "role")
    rows = [[each[key] for key in keys] for each in result["details"]["lieutenants"]]
    show(result, options, output.table(head, rows) if rows else None)


def create(api: Api, options: Options) -> None:
    names = ("name", "role", "model", "profile", "commitId", "parentVmId", "directive")
    given = {each: getattr(options, each) for each in names}
    given["agent"] = _agent(options)
    result = api.call("reef_lt_create", {**given, "local": False if options.on_vm else None})
    if options.wait is None:
        show(result, options)
        return
    name = result["details"]["lieutenant"]["name"]
    waiting.wait_for(api, {"lieutenants": [name]}, seconds=options.wait)
    facts = api.get(f"{ROOT}/{part(name)}")
    show({"details": {"lieutenant": facts}}, options, f"{name} is {facts['status']}.")
    if facts["status"] == "error":
        raise Refused(facts["error"] or f"{name} could not be started")


def _agent(options: Options) -> Json | None:
    """Return the agent to create; None for the default one."""
    if not options.agent:
        if options.permissions:
            raise usage_error("--permissions needs --agent")
        return None
    dialect, _, preset = options.agent.partition(":")
    chosen = {"dialect": dialect, "preset": preset, "permissions": options.permissions}
    return {name: value for name, value in chosen.items() if value}


def send(api: Api, options: Options) -> None:
    given = {"message": text_or_stdin(options.message), "mode": options.mode}
    result = api.call("reef_lt_send", {"name": options.name, **given})
    if options.wait is None:
        show(result, options)
        return
    message_id = result["details"]["messageId"]
    waiting.wait_for(api, {"messages": [message_id]}, seconds=options.wait)
    facts = api.get(f"{ROOT}/{part(options.name)}/messages/{message_id}")
    show({"details": facts}, options, facts["answer"] or "")
    if facts["outcome"] == "pending":
        raise Refused(f"{options.name} has stopped before it took up the message")
    if facts["outcome"] != "completed":
        raise Refused(facts["error"] or f"the outcome is {facts['outcome']}")


def read(api: Api, options: Options) -> None:
    query = {"tail": options.tail, "history": options.history}
    facts = api.get(f"{ROOT}/{part(options.name)}/read", query)
    show({"details": facts}, options, facts["output"])


def status(api: Api, options: Options) -> None:
    if not options.names:
        show(api.call("reef_lt_status", {}), options)
        return
    found = [api.get(f"{ROOT}/{part(name)}") for name in options.names]
    show({"details": {"lieutenants": found}}, options, "\n\n".join(map(_block, found)))


def _block(facts: Json) -> str:
    lines = {
        "Role": facts["role"],
        "Status": facts["status"],
        "Error": facts.get("error"),
        "VM": facts["vmId"],
        "Model": facts.get("model"),
        "Tasks": facts["taskCount"],
        "Last active": facts["lastActivityAt"],
        "Machine": _machine(facts.get("machine")),
    }
    shown = [f"  {label}: {value}" for label, value in lines.items() if value not in (None, "")]
    return "\n".join([facts["name"], *shown])


def _machine(facts: Json | None) -> str:
    """Return the state of its machine in words; empty for a host of reef."""
    if not facts:
        return ""
    heard = f"last heard {facts['lastHeardAt'] or 'never'}"
    if facts["state"] == "unreachable":
        return f"out of reach since {facts['since']}, {heard}; all else is as last heard"
    return f"answers, {heard}" if facts["state"] == "answers" else f"not followed now, {heard}"


def wait(api: Api, options: Options) -> int:
    conditions = {"lieutenants": options.names, "until": "any" if options.any else "all"}
    result = waiting.wait_for(api, conditions, seconds=options.seconds)
    show(result, options)
    return errors.FAILED if has_failed(result) else errors.OK


def has_failed(result: Json) -> bool:
    """Return whether something that `reef_wait` waited for is failed or gone."""
    return any(each["state"] in FAILED_STATES for each in result["details"]["waits"])


def destroy(api: Api, options: Options) -> None:
    if options.all == bool(options.name):
        raise usage_error("name a lieutenant, or give --all")
    show(api.call("reef_lt_destroy", {"name": options.name or "*"}), options)
