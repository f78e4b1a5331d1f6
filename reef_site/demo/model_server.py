"""Server of an OpenAI-compatible model endpoint on the loopback. Standard library only.

`POST /v1/chat/completions`, streamed or plain, and `GET /v1/models`. A subclass decides on the
replies: the demo model, or the scripted one of the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from reef_site.demo.connections import kept_tasks

MAX_BODY_BYTES = 64 << 20
Body = dict[str, Any]


# -- parts of a reply


@dataclass(frozen=True)
class Text:
    """Text or reasoning in pieces, `per_second` of them (0: as fast as possible)."""

    pieces: Sequence[str]
    per_second: float = 0.0
    thinking: bool = False


@dataclass(frozen=True)
class Call:
    """One tool call; `arguments` is JSON text."""

    name: str
    arguments: str
    call_id: str = ""


@dataclass(frozen=True)
class Pause:
    """Wait until `until` returns."""

    until: Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Raw:
    """Send this text unchanged."""

    text: str


@dataclass(frozen=True)
class Disconnect:
    """Abort the connection."""


Step = Text | Call | Pause | Raw | Disconnect


@dataclass(frozen=True)
class Usage:
    """Reported tokens; None means counted from the reply."""

    prompt: int | None = None
    completion: int | None = None
    cached: int = 0


@dataclass(frozen=True)
class Reply:
    """A reply: steps, or an HTTP error if `status` says so. `delay` is in seconds."""

    steps: Sequence[Step] = ()
    finish: str = ""
    usage: Usage = Usage()
    delay: float = 0.0
    status: int = 200
    error: str = ""
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A complete HTTP request. Header names are in lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    content: bytes

    @property
    def key(self) -> str:
        """Return the bearer token."""
        return self.headers.get("authorization", "").removeprefix("Bearer ").strip()


class UnreadableError(Exception):
    """The input is not HTTP as this server supports it."""


# -- reading a conversation


def text_of(message: Body) -> str:
    """Return the text of a chat message, whose content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def messages_of(body: Body) -> list[Body]:
    """Return the valid messages of a request."""
    found = body.get("messages")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def user_turns(body: Body) -> list[str]:
    """Return the texts of the user, oldest first."""
    return [text_of(one) for one in messages_of(body) if one.get("role") == "user"]


def last_user(body: Body) -> str:
    """Return the last text of the user; empty if there is none."""
    turns = user_turns(body)
    return turns[-1] if turns else ""


def after_tool(body: Body) -> bool:
    """Return whether the last message is a tool result."""
    return any(one.get("role") == "tool" for one in messages_of(body)[-1:])


def models_json(
    base_url: str, models: Sequence[str], *, provider: str, key: str, **extra: object
) -> Body:
    """Return a `models.json` with one provider at `base_url`; `extra` goes into each model.

    The prices (dollars per million tokens) are invented, so that costs add up to something.
    """
    common: Body = {
        "reasoning": False,
        "input": ["text", "image"],
        "contextWindow": 128000,
        "maxTokens": 16384,
        "cost": {"input": 1.0, "output": 2.0, "cacheRead": 0.1, "cacheWrite": 1.25},
        **extra,
    }
    entry = {
        "baseUrl": base_url,
        "api": "openai-completions",
        "apiKey": key,
        "compat": {
            "supportsDeveloperRole": False,
            "supportsReasoningEffort": False,
            "supportsStore": False,
        },
        "models": [{"id": name, "name": name, **common} for name in models],
    }
    return {"providers": {provider: entry}}


# -- the protocol


class ModelServer:
    """Serves the protocol on the loopback; subclasses implement `reply`."""

    models: Sequence[str] = ()
    owner = "reef"

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.port = host, port
        self.in_flight = 0
        self.aborted = 0
        self._numbers = itertools.count(1)
        self._clients: set[asyncio.Task[None]] = set()
        self._stop: asyncio.Event | None = None
        self._server: asyncio.Server | None = None

    @property
    def base_url(self) -> str:
        """Return the URL of the endpoint for an agent's configuration."""
        return f"http://{self.host}:{self.port}/v1"

    def reply(self, body: Body, key: str) -> Reply:
        """Return the reply to a request with the bearer token `key`."""
        raise NotImplementedError

    def control(self, request: Request) -> tuple[int, object] | None:
        """Return status and JSON for a route of the subclass; None if it has no such route."""
        return None

    async def open(self) -> None:
        """Bind the port, or a free one if it is 0. Raises OSError if it is taken."""
        self._stop = asyncio.Event()
        server = await asyncio.start_server(
            kept_tasks(self._client), self.host, self.port, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        self._server = server

    async def serve(self) -> None:
        """Serve requests until `stop`."""
        assert self._stop is not None
        assert self._server is not None
        await self._stop.wait()
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def stop(self) -> None:
        """Make `serve` return. Call it from the event loop of the server only."""
        if self._stop:
            self._stop.set()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        disconnected = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        try:
            with contextlib.suppress(*disconnected):
                while await self._serve_request(reader, writer):
                    pass
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(OSError, *disconnected):
                await writer.wait_closed()

    async def _serve_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; return whether the connection stays open."""
        try:
            request = await read_request(reader)
        except UnreadableError as error:
            await send_json(writer, 400, {"error": {"message": str(error)}})
            return False
        keep = request.headers.get("connection", "").lower() != "close"
        return await self._dispatch(request, reader, writer) and keep

    async def _dispatch(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if request.method == "POST" and request.path.endswith("/chat/completions"):
            return await self._complete(request, reader, writer)
        result = self.control(request)
        if result is None and request.method == "GET" and request.path.endswith("/models"):
            result = (
                200,
                {
                    "object": "list",
                    "data": [self._model(name) for name in self.models],
                },
            )
        missing = {"error": {"message": f"no route {request.method} {request.path}"}}
        status, content = result or (404, missing)
        await send_json(writer, status, content)
        return True

    def _model(self, name: str) -> Body:
        return {"id": name, "object": "model", "created": 0, "owned_by": self.owner}

    async def _complete(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        try:
            body = json.loads(request.content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            await send_json(writer, 400, {"error": {"message": "the body is no JSON object"}})
            return True
        self.in_flight += 1
        try:
            return await self._send_reply(body, self.reply(body, request.key), reader, writer)
        finally:
            self.in_flight -= 1

    async def _send_reply(
        self, body: Body, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        await asyncio.sleep(reply.delay)
        if reply.status >= 400:
            code = reply.code or str(reply.status)
            error = {"message": reply.error, "type": "model_error", "code": code}
            await send_json(writer, reply.status, {"error": error}, reply.headers)
            return True
        reply_writer = ReplyWriter(body, reply, f"{self.owner}-{next(self._numbers)}")
        if not body.get("stream"):
            await send_json(writer, 200, await reply_writer.plain(), reply.headers)
            return True
        await self._stream(reply_writer, reply, reader, writer)
        return False

    async def _stream(
        self,
        reply_writer: ReplyWriter,
        reply: Reply,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Stream a reply, unless the client disconnects, which is noticed during pauses as well."""
        writer.write(
            head(200, {"content-type": "text/event-stream", **STREAM_HEADERS, **reply.headers})
        )
        sending = asyncio.ensure_future(reply_writer.stream(writer))
        disconnected = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({sending, disconnected}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done() or sending.exception():
                self.aborted += 1
        finally:
            for task in (sending, disconnected):
                task.cancel()
            await asyncio.gather(sending, disconnected, return_exceptions=True)


class ReplyWriter:
    """Sends one reply, as chunks or as one object."""

    def __init__(self, body: Body, reply: Reply, reply_id: str) -> None:
        self.reply = reply
        self.id = reply_id
        self.frame = {"id": reply_id, "created": int(time.time()), "model": body.get("model")}
        self.prompt = len(json.dumps(body.get("messages"))) // 4
        self.sent_pieces = 0
        self.calls: list[Body] = []

    def _usage(self) -> Body:
        wanted = self.reply.usage
        prompt = self.prompt if wanted.prompt is None else wanted.prompt
        done = max(1, self.sent_pieces) if wanted.completion is None else wanted.completion
        return {
            "prompt_tokens": prompt,
            "completion_tokens": done,
            "total_tokens": prompt + done,
            "prompt_tokens_details": {"cached_tokens": wanted.cached},
        }

    def _finish(self) -> str:
        return self.reply.finish or ("tool_calls" if self.calls else "stop")

    def _note_call(self, call: Call) -> Body:
        index = len(self.calls)
        noted = {
            "id": call.call_id or f"call_{self.id}_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        self.calls.append(noted)
        self.sent_pieces += 1
        return noted

    async def plain(self) -> Body:
        """Return the reply as one object, without the steps Disconnect and Raw."""
        text = ""
        for step in self.reply.steps:
            if isinstance(step, Pause):
                await step.until()
            elif isinstance(step, Call):
                self._note_call(step)
            elif isinstance(step, Text):
                self.sent_pieces += len(step.pieces)
                text += "" if step.thinking else "".join(step.pieces)
        message: Body = {"role": "assistant", "content": text or None}
        if self.calls:
            message["tool_calls"] = self.calls
        choice = {"index": 0, "message": message, "finish_reason": self._finish()}
        kind = {"object": "chat.completion", "choices": [choice], "usage": self._usage()}
        return {**self.frame, **kind}

    async def stream(self, writer: asyncio.StreamWriter) -> None:
        """Send the reply as server-sent events."""
        await self._delta(writer, {"role": "assistant", "content": ""})
        for step in self.reply.steps:
            if isinstance(step, Disconnect):
                writer.transport.abort()
                return
            await self._step(writer, step)
        await self._delta(writer, {}, self._finish())
        await self._event(writer, {"choices": [], "usage": self._usage()})
        await send_chunk(writer, "data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _step(self, writer: asyncio.StreamWriter, step: Step) -> None:
        if isinstance(step, Pause):
            await step.until()
        elif isinstance(step, Raw):
            await send_chunk(writer, step.text)
        elif isinstance(step, Call):
            await self._call(writer, self._note_call(step))
        elif isinstance(step, Text):
            await self._send_text(writer, step)

    async def _send_text(self, writer: asyncio.StreamWriter, step: Text) -> None:
        name = "reasoning_content" if step.thinking else "content"
        due = time.monotonic()
        for piece in step.pieces:
            await self._delta(writer, {name: piece})
            self.sent_pieces += 1
            if step.per_second:
                due += 1 / step.per_second
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _call(self, writer: asyncio.StreamWriter, call: Body) -> None:
        index, function = len(self.calls) - 1, call["function"]
        opening = {**call, "index": index, "function": {**function, "arguments": ""}}
        await self._delta(writer, {"tool_calls": [opening]})
        for part in split_text(function["arguments"], 16):
            await self._delta(
                writer, {"tool_calls": [{"index": index, "function": {"arguments": part}}]}
            )

    async def _delta(self, writer: asyncio.StreamWriter, delta: Body, finish: str = "") -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish or None}
        await self._event(writer, {"choices": [choice]})

    async def _event(self, writer: asyncio.StreamWriter, content: Body) -> None:
        event = {**self.frame, "object": "chat.completion.chunk", **content}
        await send_chunk(writer, f"data: {json.dumps(event)}\n\n")


# -- the part of HTTP that agents need

STREAM_HEADERS = {
    "cache-control": "no-cache",
    "transfer-encoding": "chunked",
    "connection": "close",
}
PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests"}


def split_text(text: str, size: int) -> list[str]:
    """Split the text into pieces of `size` characters."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Return status line and headers of a response."""
    lines = [f"HTTP/1.1 {status} {PHRASES.get(status, 'Answer')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def send_json(
    writer: asyncio.StreamWriter,
    status: int,
    content: object,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Send a complete response."""
    data = json.dumps(content).encode()
    about = {"content-type": "application/json", "content-length": str(len(data))}
    writer.write(head(status, {**about, **(headers or {})}) + data)
    await writer.drain()


async def send_chunk(writer: asyncio.StreamWriter, text: str) -> None:
    """Send one chunk of a chunked response."""
    data = text.encode("utf-8", "surrogatepass")
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read a request.

    Raises UnreadableError, and IncompleteReadError if the client has disconnected.
    """
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        pairs = [line.split(":", 1) for line in lines[1:] if ":" in line]
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        url = urlsplit(target)
        content = await read_content(reader, headers)
    except (ValueError, asyncio.LimitOverrunError) as error:
        raise UnreadableError(f"cannot read the request: {error}") from None
    return Request(method, url.path.rstrip("/"), parse_qs(url.query), headers, content)


async def read_content(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    """Read a body with a content length or in chunks. Raises ValueError if it is too large."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        length = int(headers.get("content-length") or 0)
        if not 0 <= length <= MAX_BODY_BYTES:
            raise ValueError(f"a body of {length} bytes")
        return await reader.readexactly(length)
    content = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        if not 0 < size <= MAX_BODY_BYTES - len(content):
            raise ValueError("a chunk that is too large")
        content += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return content
