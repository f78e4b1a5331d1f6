"""An agent that speaks the Agent Client Protocol, and does what a message says.

    python3 acp_agent.py [OPTION...]

Options change it from its start on: `nothing-stored` (it cannot continue sessions), `resume`,
`no-login`, `old`, `images`, `http`. Sessions are kept in the file `acp-sessions.json` in HOME.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPTIONS = set(sys.argv[1:])
SESSIONS = Path(os.environ["HOME"]) / "acp-sessions.json"
LOG = Path(os.environ["HOME"]) / "acp-log.jsonl"
CHOICES = [
    {"optionId": "yes", "name": "Allow", "kind": "allow_once"},
    {"optionId": "ever", "name": "Always", "kind": "allow_always"},
    {"optionId": "no", "name": "Reject", "kind": "reject_once"},
]
WRITING = threading.Lock()
ANSWERS: dict[Any, Any] = {}
ANSWERED = threading.Condition()
CANCELLED = threading.Event()


def log(what: str, value: Any) -> None:
    with LOG.open("a") as file:
        file.write(json.dumps([what, value]) + "\n")


def send(message: dict[str, Any]) -> None:
    with WRITING:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def raw(text: str) -> None:
    with WRITING:
        sys.stdout.write(text)
        sys.stdout.flush()


def update(session: str, update_kind: str, /, **facts: Any) -> None:
    body = {"sessionUpdate": update_kind, **facts}
    send({"method": "session/update", "params": {"sessionId": session, "update": body}})


def say(session: str, text: str, kind: str = "agent_message_chunk") -> None:
    update(session, kind, content={"type": "text", "text": text})


def ask(method: str, params: dict[str, Any]) -> Any:
    """Send a request to the client and wait for its response."""
    ident = f"ask-{time.monotonic_ns()}"
    send({"id": ident, "method": method, "params": params})
    with ANSWERED:
        ANSWERED.wait_for(lambda: ident in ANSWERS)
    log("answer", ANSWERS[ident])
    return ANSWERS[ident]


def sessions() -> dict[str, Any]:
    return json.loads(SESSIONS.read_text()) if SESSIONS.exists() else {}


def keep(ident: str, messages: list[str]) -> None:
    SESSIONS.write_text(json.dumps({**sessions(), ident: messages}))


def tool(session: str, **facts: Any) -> None:
    call = {"toolCallId": "call-1", "title": "Run ls", "kind": "execute"}
    update(session, "tool_call", **call, status="pending", rawInput={})
    started = {"status": "in_progress", "rawInput": {"command": "ls"}}
    update(session, "tool_call_update", toolCallId="call-1", **started)
    content = [{"type": "content", "content": {"type": "text", "text": "a\nb"}}]
    ended = {"status": "completed", "content": content, **facts}
    update(session, "tool_call_update", toolCallId="call-1", **ended)


def permission(session: str, number: int = 1, given: Any = None) -> Any:
    call = {
        "toolCallId": f"call-{number}",
        "title": f"Remove file {number}",
        "kind": "delete",
        "rawInput": given or {"command": "rm x"},
    }
    params = {"sessionId": session, "toolCall": call, "options": CHOICES}
    return ask("session/request_permission", params)["result"]["outcome"]


def tools(session: str, _rest: str) -> None:
    say(session, "Looking. ")
    tool(session)
    say(session, "Two files.")


def think(session: str, _rest: str) -> None:
    say(session, "hm", "agent_thought_chunk")
    say(session, "Thought.")


def flood(session: str, rest: str) -> None:
    workers = [threading.Thread(target=permission, args=(session, n)) for n in range(int(rest))]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    say(session, "flooded")


def garbage(session: str, _rest: str) -> None:
    raw('not json\n{"type":"agent_end","messages":[]}\n[1]\n{"jsonrpc":"2.0","id":99}\n')
    raw("\xff\x00\n" * 3)
    say(session, "still here")


def nested(session: str, rest: str) -> None:
    depth = int(rest)
    facts = {"sessionUpdate": "tool_call", "toolCallId": rest, "status": "in_progress"}
    params = {"sessionId": session, "update": {**facts, "rawInput": ["@"]}}
    text = json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": params})
    raw(text.replace('"@"', "[" * depth + "]" * depth) + "\n")
    say(session, "still here")


def leave(session: str, rest: str) -> None:
    say(session, "half an ans")
    os._exit(int(rest))


def wait(session: str, _rest: str) -> str:
    say(session, "waiting")
    CANCELLED.wait()
    return "cancelled"


def ignore_all(session: str, _rest: str) -> None:
    say(session, "I hear nothing")
    time.sleep(1000)


def read(session: str, rest: str) -> None:
    found = ask("fs/read_text_file", {"sessionId": session, "path": rest})
    say(session, json.dumps(found.get("result") or found.get("error")))


def write(session: str, rest: str) -> None:
    params = {"sessionId": session, "path": rest, "content": "written"}
    found = ask("fs/write_text_file", params)
    say(session, "done" if "result" in found else json.dumps(found["error"]))


def terminal(session: str, rest: str) -> None:
    """Run a command line of the client's shell, and say what it printed and how it ended."""
    made = ask("terminal/create", {"sessionId": session, "command": rest, "outputByteLimit": 9})
    if "error" in made:
        say(session, json.dumps(made["error"]))
        return
    one = {"sessionId": session, "terminalId": made["result"]["terminalId"]}
    if "sleep" in rest:
        ask("terminal/kill", one)
    ended = ask("terminal/wait_for_exit", one)["result"]
    shown = ask("terminal/output", one)["result"]
    ask("terminal/release", one)
    gone = ask("terminal/output", one)["error"]["message"]
    say(session, json.dumps([shown["output"], shown["truncated"], ended, gone]))


def away(session: str, rest: str) -> None:
    say(session, json.dumps(ask("terminal/create", {"command": "ls", "cwd": rest})["error"]))


def count(session: str, _rest: str) -> None:
    cost = {"amount": 0.25, "currency": "USD"}
    update(session, "usage_update", used=500, size=2000, cost=cost)
    say(session, "counted")


def plan(session: str, _rest: str) -> None:
    entries = [{"content": "first", "status": "completed"}, {"content": "second"}]
    update(session, "plan", entries=entries)
    say(session, "planned")


ACTIONS: dict[str, Callable[[str, str], str | None]] = {
    "tool": tools,
    "think": think,
    "permission": lambda session, rest: say(
        session, json.dumps(permission(session, given=json.loads(rest or "null")))
    ),
    "flood": flood,
    "garbage": garbage,
    "nested": nested,
    "exit": leave,
    "wait": wait,
    "deaf": ignore_all,
    "read": read,
    "write": write,
    "terminal": terminal,
    "away": away,
    "refuse": lambda *_: "refusal",
    "usage": count,
    "history": lambda session, _: say(session, json.dumps(sessions().get(session, []))),
    "plan": plan,
}


def answer(session: str, text: str) -> str:
    """Do what the message says; return the stop reason."""
    word, _, rest = text.partition(" ")
    act = ACTIONS.get(word)
    if act is None:
        say(session, f"echo: {text}")
        return "end_turn"
    return act(session, rest) or "end_turn"


def prompt(ident: Any, params: dict[str, Any]) -> None:
    CANCELLED.clear()
    session, blocks = params["sessionId"], params["prompt"]
    text = blocks[-1].get("text") or "image"
    log("prompt", [each.get("text", each["type"]) for each in blocks])
    stored = sessions().get(session, [])
    if text == "fail":
        send({"id": ident, "error": {"code": -32603, "message": "no credits", "data": "at all"}})
        return
    reason = answer(session, text)
    keep(session, [*stored, text])
    usage = {"usage": {"inputTokens": 7, "outputTokens": 3}} if text == "usage" else {}
    send({"id": ident, "result": {"stopReason": reason, **usage}})
    if text == "late":
        say(session, "too late")


def begun(ident: str) -> dict[str, Any]:
    models = [{"modelId": "big", "name": "Big One"}, {"modelId": "small", "name": "Small"}]
    modes = [{"id": "plan", "name": "Plan"}, {"id": "work", "name": "Work"}]
    return {
        "sessionId": ident,
        "models": {"currentModelId": "big", "availableModels": models},
        "modes": {"currentModeId": "work", "availableModes": modes},
    }


def reply(method: str, params: dict[str, Any]) -> Any:
    if method == "initialize":
        log("initialize", params)
        capabilities: dict[str, Any] = {"loadSession": "nothing-stored" not in OPTIONS}
        capabilities["promptCapabilities"] = {"image": "images" in OPTIONS}
        capabilities["mcpCapabilities"] = {"http": "http" in OPTIONS}
        if "resume" in OPTIONS:
            capabilities["sessionCapabilities"] = {"resume": {}}
        version = 0 if "old" in OPTIONS else 1
        return {"protocolVersion": version, "agentCapabilities": capabilities}
    log(method, params)
    if method == "session/new":
        ident = f"s-{time.monotonic_ns()}"
        return begun(ident)
    if method in ("session/load", "session/resume"):
        ident = params["sessionId"]
        if method == "session/load":
            for each in sessions()[ident]:
                say(ident, each, "user_message_chunk")
                say(ident, f"again: {each}")
                tool(ident)
        return begun(ident)
    return {}


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        method, ident = message.get("method"), message.get("id")
        if method is None:
            with ANSWERED:
                ANSWERS[ident] = message
                ANSWERED.notify_all()
        elif method == "session/cancel":
            CANCELLED.set()
        elif method == "session/prompt":
            threading.Thread(target=prompt, args=(ident, message["params"]), daemon=True).start()
        elif method == "session/new" and "no-login" in OPTIONS:
            error = {"code": -32000, "message": "Authentication required"}
            send({"id": ident, "error": error})
        else:
            try:
                send({"id": ident, "result": reply(method, message["params"])})
            except KeyError:
                send({"id": ident, "error": {"code": -32602, "message": "no such session"}})


main()
