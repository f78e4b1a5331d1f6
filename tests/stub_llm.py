"""A scriptable model for tests: real agents talk to it on the loopback.

As a fixture, in a thread of its own:

    with StubLLM() as stub:
        stub.models_json()                       # for the agent's models.json
        stub.script({"text": "hello"})           # the next request gets this reply
        stub.script({"tool": {"name": "bash", "arguments": {"command": "ls"}}}, {"text": "done"})
        stub.script({"steps": [{"text": "half "}, {"gate": "g"}, {"text": "rest"}]})
        stub.open_gate("g")                      # lets that answer go on
        stub.requests[-1]["body"]["messages"]    # what the model was really shown

In a process of its own: `python -m tests.stub_llm --port 0 --port-file p.txt`, steered over HTTP:

    GET  /__stub__/state  /__stub__/requests?last=N
    POST /__stub__/script (one reply or a list)  /__stub__/gate/NAME  /__stub__/reset

A reply comes from the oldest script entry whose `match` fits; else from a directive in the newest
user message, `stub:{"text": "hi"}`, unless the newest message is a tool result; else from the
model's name (`BY_MODEL` below).

Keys of a reply, all optional:
    text, thinking    cut in pieces of `chunk` characters (8), `rate` pieces a second (0: no pause)
    tokens            so many numbered words "w0 w1 …"
    bytes             so many characters of filler, in pieces of `chunk` (4096)
    tool, tools       {"name", "arguments", "id"?}: one call, or several
    steps             a list of {text|thinking|tokens|bytes|tool|sleep|gate|drop|raw}, in order
    delay             seconds before the head of the response
    status, error, code, headers        an HTTP error instead; headers also go with an answer
    usage             {"prompt_tokens", "completion_tokens", "cached_tokens"?}
    finish            the finish_reason
    match, times      of script entries: see `fits`; how often to use it (1; 0 is for ever)
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from reef_site.demo.model_server import (
    Body,
    Call,
    Disconnect,
    ModelServer,
    Pause,
    Raw,
    Reply,
    Request,
    Step,
    Text,
    Usage,
    after_tool,
    last_user,
    messages_of,
    models_json,
    split_text,
    text_of,
)
from tests.waiting import PATIENCE

Plain = dict[str, Any]
T = TypeVar("T")
MAX_RECORDED = 5000
MODELS = (
    *("echo", "slow-50-10", "slow-1000-20", "bytes-1000000", "think", "tool-bash"),
    *("err-500", "err-429", "err-400", "flaky-500-2", "flaky-429-1", "overflow", "hang", "drop"),
)
TOO_LONG = (
    "This model's maximum context length is 128000 tokens. "
    "However, your messages resulted in 200000 tokens."
)
FILLER = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.\n"


# -- replies by model name


def _tool(name: str, body: Body) -> Plain:
    if after_tool(body):
        return {"text": "tool result was: " + text_of(messages_of(body)[-1]).strip()}
    arguments = {"command": "echo hi"} if name == "bash" else {}
    return {"tool": {"name": name, "arguments": arguments}}


# Pattern of a model name → reply, from the groups of the match and the request.
BY_MODEL: list[tuple[str, Callable[[re.Match[str], Body], Plain]]] = [
    (r"slow-(\d+)-([\d.]+)", lambda m, _: {"tokens": int(m[1]), "rate": float(m[2])}),
    (r"bytes-(\d+)", lambda m, _: {"bytes": int(m[1])}),
    (r"err-(\d+)", lambda m, _: {"status": int(m[1]), "error": f"stub error {m[1]}"}),
    (
        r"overflow",
        lambda *_: {"status": 400, "code": "context_length_exceeded", "error": TOO_LONG},
    ),
    (
        r"think",
        lambda _, body: {
            "thinking": "Let me think about it. ",
            "text": f"thought: {last_user(body)}",
        },
    ),
    (r"hang", lambda *_: {"steps": [{"sleep": 1e9}]}),
    (r"drop", lambda *_: {"steps": [{"text": "half of an answer"}, {"drop": True}]}),
    (r"tool-([\w.-]+)", lambda m, body: _tool(m[1], body)),
    (r".*", lambda _, body: {"text": f"echo: {last_user(body)}"}),
]


def matches(match: Plain, body: Body, key: str) -> bool:
    """Return whether a script entry matches this request.

    `match` may have: model (exact), contains (part of the newest user message), any (part of the
    whole request), key (the bearer token), after_tool (the newest message is a tool result).
    """
    checks: dict[str, Callable[[Any], bool]] = {
        "model": lambda wanted: wanted == body.get("model"),
        "contains": lambda wanted: wanted in last_user(body),
        "any": lambda wanted: wanted in json.dumps(body, ensure_ascii=False),
        "key": lambda wanted: wanted == key,
        "after_tool": lambda wanted: wanted == after_tool(body),
    }
    return all(checks[name](wanted) for name, wanted in match.items())


def directive(text: str) -> Plain | None:
    """Return the reply that a message requests by `stub:{…}`."""
    _, found, rest = text.partition("stub:{")
    if not found:
        return None
    try:
        reply, _ = json.JSONDecoder().raw_decode("{" + rest)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None


def pieces(step: Plain) -> list[str]:
    """Split the text of a step into the pieces that are sent."""
    if "tokens" in step:
        return [f"w{number} " for number in range(int(step["tokens"]))]
    if "bytes" in step:
        wanted = int(step["bytes"])
        filler = FILLER * (wanted // len(FILLER) + 1)
        return split_text(filler[:wanted], int(step.get("chunk", 4096)))
    return split_text(str(step.get("text", step.get("thinking", ""))), int(step.get("chunk", 8)))


def steps_of(reply: Plain) -> list[Plain]:
    """Return the steps of a reply or its short form, each with its chunk and rate."""
    common: Plain = {key: reply[key] for key in ("chunk", "rate") if key in reply}
    if "steps" in reply:
        return [{**common, **step} for step in reply["steps"]]
    words = ("thinking", "text", "tokens", "bytes")
    steps = [{**common, key: reply[key]} for key in words if key in reply]
    calls = reply.get("tools") or ([reply["tool"]] if "tool" in reply else [])
    return steps + [{"tool": call} for call in calls]


class StubLLM(ModelServer):
    """The server. Use as a context manager, which runs it in a thread on a free port."""

    models = MODELS
    owner = "stub"

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host, port)
        self.requests: list[Plain] = []  # {"t": seconds, "key", "model", "body"}
        self.total = 0
        self._script: list[Plain] = []
        self._flaky: Counter[str] = Counter()
        self._gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # called from any thread

    def models_json(self, models: tuple[str, ...] = MODELS, **extra: object) -> Body:
        """Return an agent's `models.json` with this server as the provider `stub`."""
        return models_json(self.base_url, models, provider="stub", key="stub-key", **extra)

    def script(self, *replies: Plain) -> None:
        """Queue replies; the top of this file shows their form."""
        with self._lock:
            self._script.extend(dict(reply) for reply in replies)

    def open_gate(self, name: str) -> None:
        """Release the step that waits for this gate; the gate stays open."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(lambda: self._gates[name].set())

    def reset(self) -> None:
        """Clear the script, the requests, the gates and the counters."""
        with self._lock:
            self._script.clear()
            self.requests.clear()
            self._flaky.clear()
            self._gates.clear()
            self.total = self.aborted = 0

    def state(self) -> dict[str, int]:
        """Return the numbers of requests received, active and aborted, and of remaining replies."""
        return {
            "requests": self.total,
            "in_flight": self.in_flight,
            "aborted": self.aborted,
            "queued": len(self._script),
        }

    def wait_for(self, condition: Callable[[Self], T], timeout: float = 10.0) -> T:
        """Return the value of `condition(self)` once it is true.

        Raises AssertionError after `timeout`.
        """
        end = time.monotonic() + timeout * PATIENCE
        while not (value := condition(self)):
            assert time.monotonic() < end, f"condition not met: {self.state()}"
            time.sleep(0.01)
        return value

    def __enter__(self) -> Self:
        opened = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self.live(opened.set)), name="stub-llm", daemon=True
        )
        self._thread.start()
        assert opened.wait(10), "the stub model did not start"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self.stop)
        self._thread.join(5)

    # called in the server's loop

    async def live(self, opened: Callable[[], object]) -> None:
        """Open the port, call `opened`, and serve until stopped."""
        self._loop = asyncio.get_running_loop()
        await self.open()
        opened()
        await self.serve()

    def reply(self, body: Body, key: str) -> Reply:
        """Record the request and choose its reply."""
        self.total += 1
        seen = {"t": time.time(), "key": key, "model": body.get("model"), "body": body}
        self.requests.append(seen)
        del self.requests[:-MAX_RECORDED]
        return self._build_reply(self._choose(body, key))

    def control(self, request: Request) -> tuple[int, object] | None:
        """Handle the routes below /__stub__/."""
        _, found, name = request.path.partition("/__stub__/")
        if not found:
            return None
        if request.method == "GET" and name == "requests":
            last = int(request.query.get("last", ["0"])[0])
            return 200, self.requests[-last:]
        if request.method == "POST" and name == "script":
            replies = json.loads(request.content)
            self.script(*(replies if isinstance(replies, list) else [replies]))
        elif request.method == "POST" and name == "reset":
            self.reset()
        elif request.method == "POST" and name.startswith("gate/"):
            self._gates[name.removeprefix("gate/")].set()
        elif (request.method, name) != ("GET", "state"):
            return 404, {"error": "no such control"}
        return 200, self.state()

    def _choose(self, body: Body, key: str) -> Plain:
        if (entry := self._next_of_script(body, key)) is not None:
            return entry
        directed = None if after_tool(body) else directive(last_user(body))
        return directed or self._by_model(str(body.get("model") or "echo"), body)

    def _next_of_script(self, body: Body, key: str) -> Plain | None:
        with self._lock:
            for entry in self._script:
                if matches(entry.get("match", {}), body, key):
                    times = entry.get("times", 1)
                    if times == 1:
                        self._script.remove(entry)
                    elif times > 1:
                        entry["times"] = times - 1
                    return entry
        return None

    def _by_model(self, model: str, body: Body) -> Plain:
        if found := re.fullmatch(r"flaky-(\d+)-(\d+)", model):
            self._flaky[model] += 1
            number = self._flaky[model]
            if number <= int(found[2]):
                error = f"stub flaky error {found[1]} #{number}"
                return {"status": int(found[1]), "error": error}
        for pattern, build in BY_MODEL:
            if found := re.fullmatch(pattern, model, re.DOTALL):
                return build(found, body)
        raise AssertionError("the last pattern matches every name")

    def _build_reply(self, plain: Plain) -> Reply:
        status, usage = int(plain.get("status", 200)), plain.get("usage", {})
        return Reply(
            steps=[self._step(step) for step in steps_of(plain)],
            finish=plain.get("finish", ""),
            usage=Usage(
                usage.get("prompt_tokens"),
                usage.get("completion_tokens"),
                usage.get("cached_tokens", 0),
            ),
            delay=float(plain.get("delay", 0)),
            status=status,
            error=plain.get("error", f"stub error {status}"),
            code=plain.get("code", ""),
            headers=plain.get("headers", {}),
        )

    def _step(self, step: Plain) -> Step:
        if "sleep" in step:
            return Pause(functools.partial(asyncio.sleep, float(step["sleep"])))
        if "gate" in step:
            return Pause(lambda: self._gates[step["gate"]].wait())
        if "drop" in step:
            return Disconnect()
        if "raw" in step:
            return Raw(step["raw"])
        if "tool" in step:
            call = step["tool"]
            arguments_given = call.get("arguments", {})
            arguments = (
                arguments_given if isinstance(arguments_given, str) else json.dumps(arguments_given)
            )
            return Call(call["name"], arguments, call.get("id", ""))
        return Text(pieces(step), float(step.get("rate", 0)), thinking="thinking" in step)


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="a scriptable model endpoint for tests")
    parser.add_argument("--port", type=int, default=8099, help="0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="write the port there")
    parser.add_argument("--script", type=Path, help="a JSON file with one reply or a list")
    options = parser.parse_args()
    stub = StubLLM(port=options.port)
    if options.script:
        replies = json.loads(options.script.read_text())
        stub.script(*(replies if isinstance(replies, list) else [replies]))

    def opened() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stub.stop)
        loop.add_signal_handler(signal.SIGINT, stub.stop)
        if options.port_file:
            options.port_file.write_text(str(stub.port))
        print(f"stub model at {stub.base_url}", flush=True)

    asyncio.run(stub.live(opened))


if __name__ == "__main__":
    main()
