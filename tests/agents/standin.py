#!/usr/bin/env python3
"""A stand-in for the agent `pi --mode rpc`: JSON lines on stdin and stdout, standard library only.

Answers `echo: <message>`; keeps its turns in the file given by --session; ignores other arguments
(except --model, and --version alone). A message that begins with one of these words gets a
special answer:

    SLOW <seconds> <text>   the text, word by word, during that time
    TOKENS <n> <rate>       w0 w1 w2 … at that rate a second (0: as fast as possible)
    CLOCK <n> <rate>        n words at that rate, each of them its print time
    THINK                   a thinking block, then text
    TOOL                    a tool call, its execution, then text in a second turn
    ERROR <text>            a run that ends with stopReason "error"
    DIE <code>              some text, a line on stderr, exit during the answer
    KILL                    some text, then SIGKILL to itself
    GARBAGE                 lines that are not JSON or not UTF-8, then an answer
    BIGLINE <bytes>         one line of that size, then an answer
    SILENT                  starts a run without output until abort
    DIALOG                  asks for a confirmation and waits for it
    CHILD                   starts a `sleep` in its own session: "child <pid>"
    SHELL <command>         runs it; the answer is its output
    RUN <command>           a tool call that runs it in a shell and expands variables
    PIECES <n> <s> <text>   the text, n characters at a time, every s seconds; expands variables
    CRASH <n> <s> <text>    the same; then the text on stderr, and exit during the answer
    NOISE <text>            the text as a line that is not JSON
    RECALL                  the user messages that the session holds
    POISON <text>           fails with 400, and so does each message while it is in the session
    RETRY <n> <text>        n attempts that fail after "half of it", then the text; with the text
                            "limited" by a rate limit of 1.5 s
    COMPACT                 compacts its context; that call has its own usage
    HANG <seconds> <name>   a tool call that takes this long, without output
    /note /boom /run /ask   commands: a notification, an error, a run, a dialog
    RECALL                  the user messages that were in the session file at start
    FLOOD <what> <n> <rate> n events of a kind at that rate a second, or n lines of "garbage"; then
                            an answer
    LONG <what> <bytes>     a tool call in which the next line of that type is this long (messages
                            by their role; "tool" means both lines of the result)

STANDIN_MODE, joined by commas: mute (sends nothing), exit:<code> (exits at once), stubborn
(ignores SIGTERM), fat (repeats the message in each update, as 0.73.1 did), old (0.73.1: no system
message, no agent_settled, no clear_queue), golden (as when golden.json was recorded: SLOW echoes at
once and keeps the run open for that time; steers and follow-ups have one queue), disposition (1.6:
its response to a prompt contains a disposition), models:<a>+<b> (these are the models it lists).
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Steps = Iterator[float]  # a run: each step yields the seconds until the next

BUSY = (
    "Agent is already processing. Specify streamingBehavior ('steer' or 'followUp')"
    " to queue the message."
)
FOR_EVER = 1e9


def option(name: str, default: str = "") -> str:
    """Return the value after an argument, or `default`."""
    return dict(itertools.pairwise(sys.argv[1:])).get(name, default)


PADDING: dict[str, int] = {}  # bytes to add to the next line of a type


def pad_event(event: dict[str, Any], size: int) -> dict[str, Any]:
    """Return the event with `size` additional bytes."""
    image = {"type": "image", "data": "x" * (size // 3), "mimeType": "image/png"}
    if event["type"] == "tool_execution_end":
        return {**event, "result": {"content": [image] * 3}}
    if event["type"] == "message_end":
        content = [image] * 3 if event["message"]["role"] == "toolResult" else []
        content = content or [text_block("x" * size)]
        return {**event, "message": {**event["message"], "content": content}}
    return {**event, "more": "x" * size}


def emit(event: dict[str, Any]) -> None:
    kind = event["type"]
    if size := PADDING.pop(event["message"]["role"] if kind == "message_end" else kind, 0):
        event = pad_event(event, size)
    raw(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def raw(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def usage(words: int = 0) -> dict[str, Any]:
    cost = {"input": 0.00001, "output": words * 0.000002, "cacheRead": 0, "cacheWrite": 0}
    tokens = {"input": 10, "output": words, "cacheRead": 0, "cacheWrite": 0}
    return {**tokens, "totalTokens": 10 + words, "cost": {**cost, "total": sum(cost.values())}}


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def parse_entry(line: str) -> dict[str, Any] | None:
    """Return the entry in a line of the session file; None if it is invalid."""
    try:
        entry = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


class Session:
    """Session file with the finished turns."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.messages: list[dict[str, Any]] = []
        if path and os.path.exists(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                entries = [entry for line in file if (entry := parse_entry(line))]
            if os.path.getsize(path) and (not entries or entries[0].get("type") != "session"):
                sys.exit(f"Error: Session file is not a valid session: {path}")
            self.messages = [entry["message"] for entry in entries if entry["type"] == "message"]

    @property
    def user_messages(self) -> list[str]:
        """Return the texts of the user messages."""
        return [each["content"][0]["text"] for each in self.messages if each["role"] == "user"]

    def append(self, messages: list[dict[str, Any]]) -> None:
        count = len(self.messages)
        self.messages += messages
        if self.path:
            begins = not os.path.exists(self.path) or not os.path.getsize(self.path)
            entries: list[dict[str, Any]] = [
                {"type": "message", "id": str(number), "message": message}
                for number, message in enumerate(messages, start=count)
            ]
            if begins:
                entries.insert(0, {"type": "session", "version": 3, "id": "standin"})
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(entry) + "\n" for entry in entries))

    def fork(self, number: int) -> Session:
        """Return a new session that ends before this message; the file of this one is kept."""
        name = f"fork-{time.time_ns()}.jsonl" if self.path else ""
        other = Session(os.path.join(os.path.dirname(self.path), name) if name else "")
        if kept := self.messages[:number]:
            other.append(kept)
        return other


class Answer:
    """An unfinished assistant message."""

    def __init__(self, agent: Agent) -> None:
        self.fat = "fat" in agent.modes
        self.message: dict[str, Any] = {
            "role": "assistant",
            "content": [],
            "provider": "standin",
            "model": agent.model,
            "usage": usage(),
            "stopReason": "stop" if "old" in agent.modes else "pending",
            "timestamp": int(time.time() * 1000),
        }
        emit({"type": "message_start", "message": self.message})

    def update(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "contentIndex": len(self.message["content"]) - 1, **fields}
        if self.fat:
            event["partial"] = self.message
            emit(
                {
                    "type": "message_update",
                    "assistantMessageEvent": event,
                    "message": self.message,
                }
            )
        else:
            emit({"type": "message_update", "usage": usage(), "assistantMessageEvent": event})

    def block(self, kind: str) -> None:
        self.message["content"].append({"type": kind, kind: ""})
        self.update(kind + "_start")

    def delta(self, text: str) -> None:
        block = self.message["content"][-1]
        block[block["type"]] += text
        self.update(block["type"] + "_delta", delta=text)

    def tool_call(self, call: str, name: str, arguments: dict[str, Any]) -> None:
        block = {"type": "toolCall", "id": call, "name": name, "arguments": arguments}
        self.message["content"].append(block)
        self.update("toolcall_start", id=call, toolName=name)
        self.update("toolcall_delta", delta=json.dumps(arguments))
        self.update("toolcall_end", toolCall=block)

    def end(self, reason: str, error: str = "") -> dict[str, Any]:
        texts = [block.get("text", "") for block in self.message["content"]]
        self.message["usage"] = usage(len(" ".join(texts).split()))
        self.message["stopReason"] = reason
        if error:
            self.message["errorMessage"] = error
        emit({"type": "message_end", "message": self.message})
        return self.message


def output_line(kind: str, field: str) -> bytes:
    """Return an event with 100 kB of a tool's output."""
    content = {"content": [text_block("x" * 100_000)]}
    event = {"type": kind, "toolCallId": "flood", "toolName": "bash", field: content}
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


class Agent:
    def __init__(self) -> None:
        self.modes = set(os.environ.get("STANDIN_MODE", "").split(","))
        self.model = option("--model", "standin/echo").rpartition("/")[2]
        self.session = Session(option("--session"))
        self.steering: list[str] = []
        self.follow_up: list[str] = []
        self.run: Steps | None = None
        self.next_step = 0.0
        self.answer: Answer | None = None
        self.turn: list[dict[str, Any]] = []  # messages of the unfinished turn
        self.run_messages: list[dict[str, Any]] = []  # messages of this run
        self.confirmed: bool | None = None
        self.greeted = False
        self.running_call: dict[str, Any] | None = None

    # loop

    def serve(self) -> None:
        """Serve until stdin ends."""
        rest = b""
        while True:
            wait = max(0.0, self.next_step - time.monotonic()) if self.run else None
            wait = None if wait is not None and wait > FOR_EVER / 2 else wait
            if select.select([0], [], [], wait)[0]:
                chunk = os.read(0, 1 << 16)
                if not chunk:
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self.handle_command(line)
            elif self.run:
                self.advance_run()

    def advance_run(self) -> None:
        assert self.run is not None
        pause = next(self.run, None)
        if pause is None:
            self.run = None
        else:
            self.next_step = time.monotonic() + pause

    # commands

    def handle_command(self, line: bytes) -> None:
        if "mute" in self.modes:
            return
        try:
            command = json.loads(line)
        except ValueError as error:
            emit(
                {
                    "type": "response",
                    "command": "parse",
                    "success": False,
                    "error": f"Failed to parse command: {error}",
                }
            )
            return
        if command is None:
            sys.exit("TypeError: Cannot read properties of null (reading 'id')")
        if command.get("type") == "extension_ui_response":
            self.confirmed = bool(command.get("confirmed"))
            self.next_step = 0.0
            return
        handler = getattr(self, "do_" + str(command.get("type")), None)
        if handler is None or (command["type"] == "clear_queue" and "old" in self.modes):
            unknown = {} if "old" in self.modes else command
            self.respond({**unknown, "type": command.get("type")}, error="Unknown command: {}")
        else:
            handler(command)

    def respond(self, command: dict[str, Any], data: Any = None, error: str = "") -> None:
        kind = str(command.get("type"))
        response = {"type": "response", "command": kind, "success": not error}
        if "id" in command:
            response = {"id": command["id"], **response}
        if data is not None:
            response["data"] = data
        if error:
            response["error"] = error.format(kind)
        emit(response)

    def do_prompt(self, command: dict[str, Any]) -> None:
        message = command.get("message", "")
        if handler := COMMANDS.get(message.split(" ")[0]):
            starts_run = handler(self)
            self.respond_to_prompt(command, "handled")
            if starts_run and self.run is None:
                self.run = self.run_prompt("from the command")
                self.advance_run()
        elif self.run is None:
            self.respond_to_prompt(command, "started")
            self.run = self.run_prompt(message)
            self.advance_run()
        elif "streamingBehavior" not in command:
            self.respond(command, error=BUSY)
        elif command["streamingBehavior"] == "followUp":
            self.do_follow_up(command)
        else:
            self.do_steer(command)

    def respond_to_prompt(self, command: dict[str, Any], disposition: str) -> None:
        has_disposition = "disposition" in self.modes
        self.respond(command, {"disposition": disposition} if has_disposition else None)

    def do_get_fork_messages(self, command: dict[str, Any]) -> None:
        found = [
            {"entryId": str(number), "text": each["content"][0]["text"]}
            for number, each in enumerate(self.session.messages)
            if each["role"] == "user"
        ]
        self.respond(command, {"messages": found})

    def do_fork(self, command: dict[str, Any]) -> None:
        number = int(command["entryId"])
        text = self.session.messages[number]["content"][0]["text"]
        self.session = self.session.fork(number)
        self.respond(command, {"text": text, "cancelled": False})

    def do_get_available_models(self, command: dict[str, Any]) -> None:
        listed = [mode[7:].split("+") for mode in self.modes if mode.startswith("models:")]
        models = [
            {"provider": each.partition("/")[0], "id": each.partition("/")[2], "name": each}
            for each in (listed[0] if listed else [])
        ]
        self.respond(command, {"models": models})

    def do_steer(self, command: dict[str, Any]) -> None:
        queue = self.follow_up if "golden" in self.modes else self.steering
        queue.append(command.get("message", ""))
        self.emit_queue()
        self.respond(command)

    def do_follow_up(self, command: dict[str, Any]) -> None:
        self.follow_up.append(command.get("message", ""))
        self.emit_queue()
        self.respond(command)

    def do_clear_queue(self, command: dict[str, Any]) -> None:
        data = {"steering": self.steering, "followUp": self.follow_up}
        self.steering, self.follow_up = [], []
        self.emit_queue()
        self.respond(command, data)

    def emit_queue(self) -> None:
        emit(
            {
                "type": "queue_update",
                "steering": list(self.steering),
                "followUp": list(self.follow_up),
            }
        )

    def do_abort(self, command: dict[str, Any]) -> None:
        if self.run is not None:
            self.run = None
            self.end_call("Operation aborted", is_error=True)
            if self.answer is not None:
                self.end_turn("aborted", "Request was aborted.")
            self.end_run()
        self.respond(command)

    def end_call(self, text: str, *, is_error: bool) -> None:
        if call := self.running_call:
            self.running_call = None
            result = {"content": [text_block(text)]}
            emit({"type": "tool_execution_end", **call, "result": result, "isError": is_error})

    def do_get_state(self, command: dict[str, Any]) -> None:
        data = {
            "model": {"provider": "standin", "id": self.model},
            "thinkingLevel": "off",
            "isStreaming": self.run is not None,
            "isCompacting": False,
            "steeringMode": "one-at-a-time",
            "followUpMode": "one-at-a-time",
            "sessionFile": self.session.path,
            "sessionId": "standin",
            "autoCompactionEnabled": True,
            "messageCount": len(self.session.messages),
            "pendingMessageCount": len(self.steering) + len(self.follow_up),
        }
        self.respond(command, data)

    def do_get_messages(self, command: dict[str, Any]) -> None:
        self.respond(command, {"messages": self.session.messages})

    def do_set_model(self, command: dict[str, Any]) -> None:
        provider, model = command.get("provider"), command.get("modelId")
        if provider != "standin":
            self.respond(command, error=f"Model not found: {provider}/{model}")
            return
        self.model = str(model)
        self.respond(command, {"provider": provider, "id": model})

    def do_set_session_name(self, command: dict[str, Any]) -> None:
        emit({"type": "session_info_changed", "name": command.get("name")})
        self.respond(command)

    # runs

    def run_prompt(self, message: str | None) -> Steps:
        """Run the prompt, then the messages that were queued meanwhile."""
        emit({"type": "agent_start"})
        self.run_messages = []
        while message is not None:
            yield from self.play_turn(message)
            message = self.next_queued()
        self.end_run()

    def next_queued(self) -> str | None:
        queue = self.steering or self.follow_up
        if not queue:
            return None
        message = queue.pop(0)
        self.emit_queue()
        return message

    def play_turn(self, message: str) -> Steps:
        emit({"type": "turn_start"})
        if not self.greeted and "old" not in self.modes:
            self.emit_message({"role": "system", "content": [text_block("You are a stand-in.")]})
        self.greeted = True
        user = {"role": "user", "content": [text_block(message)]}
        self.emit_message(user)
        self.turn = [user]
        self.answer = Answer(self)
        word, _, rest = message.partition(" ")
        behaviour = BEHAVIOURS.get(word)
        if any(each.startswith("POISON") for each in [*self.session.user_messages, message]):
            behaviour = Agent.poisoned
        yield from behaviour(self, rest) if behaviour else self.stream_words("echo: " + message)
        if self.answer is not None:
            self.end_turn("stop")

    def emit_message(self, message: dict[str, Any]) -> None:
        message["timestamp"] = int(time.time() * 1000)
        emit({"type": "message_start", "message": message})
        emit({"type": "message_end", "message": message})
        self.run_messages.append(message)

    def end_turn(
        self, reason: str, error: str = "", tools: Callable[[], None] = lambda: None
    ) -> None:
        """End the answer, run its tool calls, save the turn."""
        assert self.answer is not None
        message = self.answer.end(reason, error)
        self.answer = None
        self.run_messages.append(message)
        self.turn.append(message)
        tools()
        self.session.append(self.turn)
        self.turn = []
        emit({"type": "turn_end", "message": message, "toolResults": []})

    def end_run(self) -> None:
        retry = {} if "old" in self.modes else {"willRetry": False}
        emit({"type": "agent_end", "messages": self.run_messages, **retry})
        if "old" not in self.modes:
            emit({"type": "agent_settled"})

    # behaviours

    def stream_words(self, text: str, pause: float = 0.0) -> Steps:
        """Stream a text word by word."""
        assert self.answer is not None
        self.answer.block("text")
        words = text.split(" ")
        for index, word in enumerate(words):
            self.answer.delta(word if index == len(words) - 1 else word + " ")
            yield pause
        self.answer.update("text_end", content=text)

    def slow(self, rest: str) -> Steps:
        seconds, _, text = rest.partition(" ")
        if "golden" in self.modes:
            yield from self.stream_words("echo: SLOW " + rest)
            yield float(seconds)
            return
        yield from self.stream_words(text, float(seconds) / max(1, len(text.split(" "))))

    def tokens(self, rest: str) -> Steps:
        count, rate = rest.split()
        pause = 1 / float(rate) if float(rate) else 0.0
        yield from self.stream_words(" ".join(f"w{number}" for number in range(int(count))), pause)

    def clock(self, rest: str) -> Steps:
        """Stream words that contain their print time, in milliseconds since the epoch."""
        assert self.answer is not None
        self.answer.block("text")
        count, rate = rest.split()
        words = []
        for _ in range(int(count)):
            words.append(f"t{int(time.time() * 1000)} ")
            self.answer.delta(words[-1])
            yield 1 / float(rate)
        self.answer.update("text_end", content="".join(words))

    def think(self, rest: str) -> Steps:
        assert self.answer is not None
        self.answer.block("thinking")
        for word in ("let ", "me ", "see"):
            self.answer.delta(word)
            yield 0.0
        yield from self.stream_words("echo: " + rest)

    def tool(self, rest: str) -> Steps:
        assert self.answer is not None
        call = {"toolCallId": f"call_{len(self.session.messages)}", "toolName": "bash"}
        arguments = {"command": "echo hi"}
        self.answer.tool_call(call["toolCallId"], "bash", arguments)
        yield 0.0
        result = {"content": [text_block("hi\n")]}

        def execute() -> None:
            emit({"type": "tool_execution_start", **call, "args": arguments})
            update = {"type": "tool_execution_update", **call, "args": arguments}
            emit({**update, "partialResult": {**result, "details": {}}})
            emit({"type": "tool_execution_end", **call, "result": result, "isError": False})
            message = {"role": "toolResult", **call, **result, "isError": False}
            self.emit_message(message)
            self.turn.append(message)

        self.end_turn("toolUse", tools=execute)
        emit({"type": "turn_start"})
        self.answer = Answer(self)
        yield from self.stream_words("the tool said hi " + rest)

    def error(self, rest: str) -> Steps:
        yield 0.0
        self.end_turn("error", rest or "500 stand-in error")

    def die(self, rest: str) -> Steps:
        yield from self.stream_words("I am about to")
        sys.stderr.write("Error: the stand-in was told to die\n")
        sys.exit(int(rest or 1))

    def kill(self, _: str) -> Steps:
        yield from self.stream_words("I am about to")
        os.kill(os.getpid(), signal.SIGKILL)

    def garbage(self, rest: str) -> Steps:
        raw(b"this is no JSON\n[1,2]\n\xff\xfe broken \xf0\x9f\n")
        yield from self.stream_words("echo: " + rest)

    def bigline(self, rest: str) -> Steps:
        frame = b'{"type":"big","text":""}\n'
        raw(frame[:-3] + b"x" * (int(rest) - len(frame) + 1) + frame[-3:])
        yield from self.stream_words("echo: " + rest)

    def silent(self, _: str) -> Steps:
        while True:
            yield FOR_EVER

    def dialog(self, rest: str) -> Steps:
        self.confirmed = None
        request = {"type": "extension_ui_request", "id": f"dialog-{time.time_ns()}"}
        emit({**request, "method": "confirm", "title": "Sure?", "message": rest or "Go on?"})
        while self.confirmed is None:
            yield FOR_EVER
        yield from self.stream_words("confirmed" if self.confirmed else "declined")

    def child(self, _: str) -> Steps:
        pid = os.posix_spawnp("sleep", ["sleep", "600"], os.environ, setsid=True)
        yield from self.stream_words(f"child {pid}")

    def shell(self, rest: str) -> Steps:
        pipe = subprocess.PIPE
        done = subprocess.run(["bash", "-c", rest], stdout=pipe, stderr=subprocess.STDOUT)
        yield from self.stream_words(done.stdout.decode("utf-8", "replace"))

    def run_command(self, rest: str) -> Steps:
        assert self.answer is not None
        call = {"toolCallId": f"call_{len(self.session.messages)}", "toolName": "bash"}
        arguments = {"command": os.path.expandvars(rest)}
        self.answer.tool_call(call["toolCallId"], "bash", arguments)
        yield 0.0
        ran = subprocess.run(["sh", "-c", rest], stdout=subprocess.PIPE, check=False)
        output = ran.stdout.decode("utf-8", "replace")

        def execute() -> None:
            emit({"type": "tool_execution_start", **call, "args": arguments})
            for end in range(0, len(output), max(1, len(output) // 20)):
                partial = {"content": [text_block(output[:end])]}
                emit({"type": "tool_execution_update", **call, "partialResult": partial})
                time.sleep(0.05)
            result = {"content": [text_block(output)]}
            emit({"type": "tool_execution_end", **call, "result": result, "isError": False})
            message = {"role": "toolResult", **call, **result, "isError": False}
            self.emit_message(message)
            self.turn.append(message)

        self.end_turn("toolUse", tools=execute)
        emit({"type": "turn_start"})
        self.answer = Answer(self)
        yield from self.stream_words("done")

    def pieces(self, rest: str) -> Steps:
        assert self.answer is not None
        size, pause, text = rest.split(" ", 2)
        text = os.path.expandvars(text)
        self.answer.block("text")
        for start in range(0, len(text), int(size)):
            self.answer.delta(text[start : start + int(size)])
            yield float(pause)
        self.answer.update("text_end", content=text)

    def crash(self, rest: str) -> Steps:
        yield from self.pieces(rest)
        sys.stderr.write(os.path.expandvars(rest.split(" ", 2)[2]) + "\n")
        sys.exit(1)

    def noise(self, rest: str) -> Steps:
        raw(os.path.expandvars(rest).encode() + b"\n")
        yield from self.stream_words("done")

    def poisoned(self, _: str) -> Steps:
        yield 0.0
        number = len(self.session.messages)
        run_messages = {
            "message": f"messages.{number}: image cannot be decoded",
            "request_id": f"r{number}",
        }
        self.end_turn("error", "400: " + json.dumps(run_messages))

    def retry(self, rest: str) -> Steps:
        count, _, text = rest.partition(" ")
        for attempt in range(1, int(count) + 1):
            yield from self.stream_words("half of it")
            self.end_turn("error", "terminated")
            emit({"type": "agent_end", "messages": [], "willRetry": True})
            delay = 1500 if text == "limited" else 50
            failure = "429 rate limit" if text == "limited" else "terminated"
            attempt_fields = {"attempt": attempt, "maxAttempts": int(count), "delayMs": delay}
            emit({"type": "auto_retry_start", "errorMessage": failure, **attempt_fields})
            yield delay / 1000
            emit({"type": "agent_start"})
            emit({"type": "turn_start"})
            self.answer = Answer(self)
        emit({"type": "auto_retry_end", "success": True, "attempt": int(count)})
        yield from self.stream_words(text)

    def compact(self, _: str) -> Steps:
        emit({"type": "compaction_start", "reason": "threshold"})
        yield 0.0
        result = {"summary": "short", "tokensBefore": 1000, "usage": usage(7)}
        emit({"type": "compaction_end", "reason": "threshold", "result": result})
        yield from self.stream_words("shortened")

    def hang(self, rest: str) -> Steps:
        assert self.answer is not None
        seconds, _, name = rest.partition(" ")
        call = {"toolCallId": f"call_{len(self.session.messages)}", "toolName": name or "bash"}
        arguments = {"command": f"sleep {seconds}"}
        self.answer.tool_call(call["toolCallId"], call["toolName"], arguments)
        yield 0.0
        self.end_turn("toolUse")
        emit({"type": "tool_execution_start", **call, "args": arguments})
        self.running_call = call
        yield float(seconds)
        self.end_call("", is_error=False)
        emit({"type": "turn_start"})
        self.answer = Answer(self)
        yield from self.stream_words("done")

    # commands of an extension; each returns whether it starts a run

    def command_note(self) -> bool:
        self.notify("done-note")
        return False

    def command_boom(self) -> bool:
        emit({"type": "extension_error", "extensionPath": "command:boom", "error": "boom-error"})
        return False

    def command_run(self) -> bool:
        return True

    def command_ask(self) -> bool:
        request = {"type": "extension_ui_request", "id": f"dialog-{time.time_ns()}"}
        emit({**request, "method": "select", "title": "Which?", "options": ["a", "b"]})
        self.notify("chosen undefined")
        return False

    def notify(self, text: str) -> None:
        request = {"type": "extension_ui_request", "id": f"notify-{time.time_ns()}"}
        emit({**request, "method": "notify", "message": text})

    def flood(self, rest: str) -> Steps:
        what, count, rate = rest.split()
        lines = {
            "garbage": b"this is no JSON\n",
            "notify": b'{"type":"extension_ui_request","id":"1","method":"notify","message":"n"}\n',
            "setStatus": b'{"type":"extension_ui_request","id":"1","method":"setStatus"}\n',
            "extension_error": b'{"type":"extension_error","extensionPath":"/x.ts","error":"n"}\n',
            "output": output_line("tool_execution_update", "partialResult"),
            "results": output_line("tool_execution_end", "result"),
        }
        line = lines.get(what, b'{"type":"' + what.encode() + b'","more":"' + b"x" * 400 + b'"}\n')
        batch = max(1, int(rate) // 50)
        begun = time.monotonic()
        for start in range(0, int(count), batch):
            raw(line * min(batch, int(count) - start))
            yield max(0.0, begun + (start + batch) / int(rate) - time.monotonic())
        yield from self.stream_words("flooded")

    def long_line(self, rest: str) -> Steps:
        what, size = rest.split()
        result_types = ("tool_execution_end", "toolResult")
        PADDING.update(dict.fromkeys(result_types if what == "tool" else (what,), int(size)))
        yield from self.run_command("echo hi")

    def recall(self, _: str) -> Steps:
        yield from self.stream_words("recall: " + " | ".join(self.session.user_messages))


BEHAVIOURS: dict[str, Callable[[Agent, str], Steps]] = {
    "SLOW": Agent.slow,
    "TOKENS": Agent.tokens,
    "CLOCK": Agent.clock,
    "THINK": Agent.think,
    "TOOL": Agent.tool,
    "ERROR": Agent.error,
    "DIE": Agent.die,
    "KILL": Agent.kill,
    "GARBAGE": Agent.garbage,
    "BIGLINE": Agent.bigline,
    "SILENT": Agent.silent,
    "DIALOG": Agent.dialog,
    "CHILD": Agent.child,
    "SHELL": Agent.shell,
    "RUN": Agent.run_command,
    "PIECES": Agent.pieces,
    "CRASH": Agent.crash,
    "NOISE": Agent.noise,
    "RECALL": Agent.recall,
    "POISON": Agent.poisoned,
    "RETRY": Agent.retry,
    "COMPACT": Agent.compact,
    "HANG": Agent.hang,
    "FLOOD": Agent.flood,
    "LONG": Agent.long_line,
}
COMMANDS: dict[str, Callable[[Agent], bool]] = {
    "/note": Agent.command_note,
    "/boom": Agent.command_boom,
    "/run": Agent.command_run,
    "/ask": Agent.command_ask,
}


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write("0.87.1\n")
        return
    for mode in os.environ.get("STANDIN_MODE", "").split(","):
        if mode == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if mode.startswith("exit:"):
            sys.stderr.write("Error: the stand-in exits at once\n")
            sys.exit(int(mode[5:]))
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    Agent().serve()


if __name__ == "__main__":
    main()
