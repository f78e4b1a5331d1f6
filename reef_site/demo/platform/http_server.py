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
from reef_site.demo.platform.machines import Machines
from reef_site.demo.platform.request_log import LoggedRequest
from reef_site.demo.platform.responses import (
    ApiError,
    Response,
    TextError,
    add_unknown_members,
    gateway_timeout,
    invalid_json,
    invalid_key,
    json_response,
    wrong_type,
)
from reef_site.demo.platform.store import Account

PREFIX = "/api/v1"
UUID_PARAMS = frozenset({"vm_id", "commit_id", "vm_or_commit_id", "domain_id"})
PUBLIC_OPERATIONS = frozenset({"health", "version", "public_repositories", "public_repository"})
PUBLIC_OPERATIONS |= {"public_tags", "public_tag"}
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
    path_params: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    machines: Machines
    account: Account

    def json(self, **fields: str) -> dict[str, Any]:
        """Return the members of the body. Each must be of its kind; "?" marks optional ones."""
        try:
            facts = json.loads(self.body)
        except ValueError as error:
            raise invalid_json(str(error)) from None
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
        """Return a boolean query parameter."""
        text = self.query.get(name, "false")
        if text not in ("true", "false"):
            problem = "provided string was not `true` or `false`"
            raise TextError(400, f"Failed to deserialize query string: {name}: {problem}")
        return text == "true"

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return an integer query parameter within limits."""
        text = self.query.get(name, str(default))
        if not re.fullmatch(r"\d{1,18}", text) or not low <= int(text) <= high:
            problem = f"{name}: number out of range or not a number"
            raise TextError(400, f"Failed to deserialize query string: {problem}")
        return int(text)


Handler = Callable[[Call], Awaitable[Response]]


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
    """A table in which handlers register themselves."""

    def __init__(self) -> None:
        self.table: list[Route] = []

    def on(self, method: str, path: str, op: str, prefix: str = PREFIX) -> Callable[..., Handler]:
        """Register the decorated handler for this path."""

        def register(handler: Handler) -> Handler:
            self.table.append(Route(op, method, prefix + path, handler))
            return handler

        return register


class HttpApi:
    """The ASGI application."""

    def __init__(
        self, machines: Machines, routes: list[Route], check: Callable[..., str | None] | None
    ) -> None:
        self.machines, self.check = machines, check
        # Literal paths precede parameters: /vm/new_root before /vm/{id}.
        self.routes = sorted(routes, key=lambda route: route.template.count("{"))
        self._recent: list[float] = []
        self._background: set[asyncio.Task[Response]] = set()

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
        route, words = self._match_route(scope["method"], path)
        op = route.op if route else "unknown"
        response = await self._answer(scope, headers, body, route, words)
        if route:
            self._check_schema(route, response)
        spent = (time.monotonic() - began) * 1000
        if not path.startswith("/emulator"):
            logged = LoggedRequest(
                op, scope["method"], path, response.status, spent, request_id, time.time()
            )
            self.machines.request_log.requests.append(logged)
            print(f"{logged.method} {path} {logged.status} {spent:.0f} ms", flush=True)
        await _send(send, response, request_id)

    def _check_schema(self, route: Route, response: Response) -> None:
        """Record a response that does not match openapi.yaml."""
        if self.check and not route.template.startswith("/emulator"):
            problem = self.check(route.method, route.template, response)
            self.machines.request_log.violations += [problem] if problem else []

    def _match_route(self, method: str, path: str) -> tuple[Route | None, dict[str, str]]:
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
    ) -> Response:
        account = self._authenticate(headers, route.op if route else "")
        if account is None:
            return invalid_key(self.machines.switches.auth_failure)
        if route is None:
            return Response(404)
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        call = Call(
            route.op,
            route.method,
            scope["path"],
            words,
            query,
            headers,
            body,
            self.machines,
            account,
        )
        if route.template.startswith("/emulator"):
            return await self._handle(route, call)
        await asyncio.sleep(self.machines.switches.latency_ms / 1000)
        if self._is_rate_limited():
            return _rate_limit_response(self.machines.switches.retry_after_s)
        if fault := self.machines.fault_injector.take_fault(route.op):
            return await self._apply_fault(fault, route, call)
        response = await self._handle(route, call)
        if self.machines.switches.unknown_fields and response.kind == "application/json":
            response.body = json.dumps(add_unknown_members(json.loads(response.body))).encode()
        return response

    async def _handle(self, route: Route, call: Call) -> Response:
        try:
            for name in UUID_PARAMS & call.path_params.keys():
                if not is_uuid(call.path_params[name]):
                    problem = f"with value `{call.path_params[name]}`: UUID parsing failed"
                    text = f"Invalid URL: Cannot parse `{name}` {problem}: invalid character"
                    raise TextError(400, text, None)
            return await route.handler(call)
        except (ApiError, TextError) as error:
            return error.response()
        except HostingError as error:
            return ApiError(500, f"http error: {error}").response()

    async def _apply_fault(self, fault: Fault, route: Route, call: Call) -> Response:
        """Return the fault's response; with `done` the operation is carried out anyway."""
        if fault.done:
            work = asyncio.create_task(self._handle(route, call))
            self._background.add(work)
            work.add_done_callback(self._background.discard)
            if not fault.after_s:
                await asyncio.wait({work})
        await asyncio.sleep(fault.after_s)
        if fault.status == 503:
            return gateway_timeout()
        if fault.status == 429:
            return _rate_limit_response(self.machines.switches.retry_after_s)
        return ApiError(fault.status, fault.error).response()

    def _authenticate(self, headers: dict[str, str], op: str) -> Account | None:
        words = headers.get("authorization", "").split()
        switches, store = self.machines.switches, self.machines.store
        if len(words) == 2 and words[0].lower() == "bearer" and words[1] in store.accounts:
            wrong = len(headers["authorization"]) != KEY_LENGTH
            if not (switches.strict_key_length and wrong):
                return store.accounts[words[1]]
        if op == "health" or (op in PUBLIC_OPERATIONS and switches.public_without_key):
            return Account("", "")
        return None

    def _is_rate_limited(self) -> bool:
        limit = self.machines.switches.requests_per_second
        if limit is None:
            return False
        now = time.monotonic()
        self._recent = [each for each in self._recent if now - each < 1.0]
        if len(self._recent) >= limit:
            return True
        self._recent.append(now)
        return False


def _rate_limit_response(seconds: int) -> Response:
    response = json_response({"error": "rate limit exceeded", "success": False}, 429)
    response.headers["retry-after"] = str(seconds)
    return response


async def _send(send: Any, response: Response, request_id: str) -> None:
    headers = [(b"x-request-id", request_id.encode())]
    if response.kind:
        headers.append((b"content-type", response.kind.encode()))
    headers += [(key.encode(), value.encode()) for key, value in response.headers.items()]
    if response.stream is None and response.status != 204:
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if response.stream is not None:
        async for chunk in response.stream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": response.body})
