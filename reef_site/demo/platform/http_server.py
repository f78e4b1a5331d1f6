"""The HTTP server: routes, keys, faults, and the platform's error responses for malformed
requests.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from reef_site.demo.platform.faults import Fault
from reef_site.demo.platform.hosting_base import HostingError
from reef_site.demo.platform.journal import Heard
from reef_site.demo.platform.machines import Machines
from reef_site.demo.platform.responses import (
    Answer,
    Refusal,
    TextRefusal,
    bad_body,
    bad_key,
    gateway_timeout,
    json_answer,
    surprise,
    wrong_type,
)
from reef_site.demo.platform.store import Account

PREFIX = "/api/v1"
UUIDS = frozenset({"vm_id", "commit_id", "vm_or_commit_id", "domain_id"})
OPEN = frozenset({"health", "version", "public_repositories", "public_repository"})
OPEN |= {"public_tags", "public_tag"}
KEY_LENGTH = len("Bearer ") + 36 + 64

KINDS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "uint": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "uuid": lambda value: isinstance(value, str) and is_uuid(value),
    "map": lambda value: isinstance(value, dict),
    "words": lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value),
    "texts": lambda value: (
        isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    ),
}


def is_uuid(text: str) -> bool:
    """Return whether the platform accepts the text as an id."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


@dataclass
class Call:
    """A parsed request."""

    op: str
    method: str
    path: str
    words: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    machines: Machines
    who: Account

    def json(self, **fields: str) -> dict[str, Any]:
        """The body's members. Kinds as in KINDS; one with "?" may be missing or null."""
        try:
            facts = json.loads(self.body)
        except ValueError as error:
            raise bad_body(str(error)) from None
        if not isinstance(facts, dict):
            raise wrong_type(f"invalid type: expected {self.op}")
        for name, kind in fields.items():
            value = facts.get(name)
            if value is None:
                if not kind.endswith("?"):
                    raise wrong_type(f"missing field `{name}`")
            elif not KINDS[kind.rstrip("?")](value):
                raise wrong_type(f"{name}: invalid type, expected {kind.rstrip('?')}")
        return facts

    def flag(self, name: str) -> bool:
        """A query parameter, `true` or `false`."""
        text = self.query.get(name, "false")
        if text not in ("true", "false"):
            problem = "provided string was not `true` or `false`"
            raise TextRefusal(400, f"Failed to deserialize query string: {name}: {problem}")
        return text == "true"

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """A query parameter, a whole number within limits."""
        text = self.query.get(name, str(default))
        if not re.fullmatch(r"\d{1,18}", text) or not low <= int(text) <= high:
            problem = f"{name}: number out of range or not a number"
            raise TextRefusal(400, f"Failed to deserialize query string: {problem}")
        return int(text)


Handler = Callable[[Call], Awaitable[Answer]]


@dataclass
class Route:
    """An operation of the API."""

    op: str
    method: str
    template: str
    handler: Handler
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        words = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.template)
        self.pattern = re.compile(words)


class Routes:
    """A table that handlers enter themselves into."""

    def __init__(self) -> None:
        self.table: list[Route] = []

    def on(self, method: str, path: str, op: str, prefix: str = PREFIX) -> Callable[..., Handler]:
        """Enter the decorated handler under this path."""

        def enter(handler: Handler) -> Handler:
            self.table.append(Route(op, method, prefix + path, handler))
            return handler

        return enter


class Door:
    """The ASGI application."""

    def __init__(
        self, machines: Machines, routes: list[Route], check: Callable[..., str | None] | None
    ) -> None:
        self.machines, self.check = machines, check
        # Fixed words win over parameters: /vm/new_root before /vm/{id}.
        self.routes = sorted(routes, key=lambda route: route.template.count("{"))
        self._rate: list[float] = []
        self._lost: set[asyncio.Task[Answer]] = set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            return
        began = time.monotonic()
        headers = {key.decode().lower(): value.decode("latin-1") for key, value in scope["headers"]}
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request_id = headers.get("x-request-id") or str(uuid.uuid4())
        path = scope["path"].rstrip("/") or "/"
        route, words = self._find(scope["method"], path)
        op = route.op if route else "unknown"
        answer = await self._answer(scope, headers, body, route, words)
        if route:
            self._compare(route, answer)
        spent = (time.monotonic() - began) * 1000
        if not path.startswith("/emulator"):
            said = Heard(op, scope["method"], path, answer.status, spent, request_id, time.time())
            self.machines.journal.heard.append(said)
            print(f"{said.method} {path} {said.status} {spent:.0f} ms", flush=True)
        await _send(send, answer, request_id)

    def _compare(self, route: Route, answer: Answer) -> None:
        """Note an answer that does not fit the description."""
        if self.check and not route.template.startswith("/emulator"):
            problem = self.check(route.method, route.template, answer)
            self.machines.journal.violations += [problem] if problem else []

    def _find(self, method: str, path: str) -> tuple[Route | None, dict[str, str]]:
        for route in self.routes:
            if route.method == method and (found := route.pattern.fullmatch(path)):
                return route, {key: unquote(value) for key, value in found.groupdict().items()}
        return None, {}

    async def _answer(
        self,
        scope: dict[str, Any],
        headers: dict[str, str],
        body: bytes,
        route: Route | None,
        words: dict[str, str],
    ) -> Answer:
        who = self._who(headers, route.op if route else "")
        if who is None:
            return bad_key(self.machines.switches.auth_failure)
        if route is None:
            return Answer(404)
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        call = Call(
            route.op, route.method, scope["path"], words, query, headers, body, self.machines, who
        )
        if route.template.startswith("/emulator"):
            return await self._handle(route, call)
        await asyncio.sleep(self.machines.switches.latency_ms / 1000)
        if self._too_many():
            return _busy(self.machines.switches.retry_after_s)
        if fault := self.machines.trouble.strike(route.op):
            return await self._fail(fault, route, call)
        answer = await self._handle(route, call)
        if self.machines.switches.unknown_fields and answer.kind == "application/json":
            answer.body = json.dumps(surprise(json.loads(answer.body))).encode()
        return answer

    async def _handle(self, route: Route, call: Call) -> Answer:
        try:
            for name in UUIDS & call.words.keys():
                if not is_uuid(call.words[name]):
                    problem = f"with value `{call.words[name]}`: UUID parsing failed"
                    text = f"Invalid URL: Cannot parse `{name}` {problem}: invalid character"
                    raise TextRefusal(400, text, None)
            return await route.handler(call)
        except (Refusal, TextRefusal) as error:
            return error.answer()
        except HostingError as error:
            return Refusal(500, f"http error: {error}").answer()

    async def _fail(self, fault: Fault, route: Route, call: Call) -> Answer:
        """Return the fault's response; with `done` the operation is carried out anyway."""
        if fault.done:
            work = asyncio.create_task(self._handle(route, call))
            self._lost.add(work)
            work.add_done_callback(self._lost.discard)
            if not fault.after_s:
                await asyncio.wait({work})
        await asyncio.sleep(fault.after_s)
        if fault.status == 503:
            return gateway_timeout()
        if fault.status == 429:
            return _busy(self.machines.switches.retry_after_s)
        return Refusal(fault.status, fault.error).answer()

    def _who(self, headers: dict[str, str], op: str) -> Account | None:
        words = headers.get("authorization", "").split()
        switches, store = self.machines.switches, self.machines.store
        if len(words) == 2 and words[0].lower() == "bearer" and words[1] in store.accounts:
            wrong = len(headers["authorization"]) != KEY_LENGTH
            if not (switches.strict_key_length and wrong):
                return store.accounts[words[1]]
        if op == "health" or (op in OPEN and switches.public_without_key):
            return Account("", "")
        return None

    def _too_many(self) -> bool:
        limit = self.machines.switches.requests_per_second
        if limit is None:
            return False
        here = time.monotonic()
        self._rate = [each for each in self._rate if here - each < 1.0]
        if len(self._rate) >= limit:
            return True
        self._rate.append(here)
        return False


def _busy(seconds: int) -> Answer:
    answer = json_answer({"error": "rate limit exceeded", "success": False}, 429)
    answer.headers["retry-after"] = str(seconds)
    return answer


async def _send(send: Any, answer: Answer, request_id: str) -> None:
    headers = [(b"x-request-id", request_id.encode())]
    if answer.kind:
        headers.append((b"content-type", answer.kind.encode()))
    headers += [(key.encode(), value.encode()) for key, value in answer.headers.items()]
    if answer.stream is None and answer.status != 204:
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if answer.stream is not None:
        async for chunk in answer.stream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": answer.body})
