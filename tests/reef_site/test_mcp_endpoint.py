"""The MCP endpoint by itself: waits end with their clients, and errors of web are results."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from reef_site.edge.mcp import messages
from reef_site.edge.mcp.endpoint import Endpoint
from reef_site.edge.mcp.web import Answer, Json, Progress, TooLong, Web
from reef_site.edge.request_bodies import Event

MODERN = "2026-07-28"
LEGACY = "2025-11-25"


class FakeWeb(Web):
    """Answers every call with the same answer, or waits for ever without one."""

    def __init__(self, answer: Answer | Exception | None) -> None:
        self.answer = answer
        self.is_waiting, self.was_cancelled = asyncio.Event(), asyncio.Event()

    async def get(self, path: str) -> Answer:
        assert isinstance(self.answer, Exception)
        raise self.answer

    async def call_tool(self, name: str, arguments: Json, progress: Progress) -> Answer:
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer:
            return self.answer
        try:
            await progress(0.0, 60.0, "waiting")
            self.is_waiting.set()
            await asyncio.Event().wait()
        finally:
            self.was_cancelled.set()
        raise AssertionError("not reached")


class Call:
    """One `tools/call` to an endpoint, with its client's end and its revocation as events."""

    def __init__(self, web: FakeWeb, version: str, method: str = "tools/call") -> None:
        self.web, self.version, self.method = web, version, method
        self.hung_up, self.revoked = asyncio.Event(), asyncio.Event()
        self.sent: list[Event] = []

    async def run(self, endpoint: Endpoint) -> None:
        meta: Json = {"progressToken": "p"}
        if self.version == MODERN:
            prefix = "io.modelcontextprotocol/"
            meta |= {
                f"{prefix}protocolVersion": MODERN,
                f"{prefix}clientCapabilities": {},
                f"{prefix}clientInfo": {"name": "tests", "version": "1"},
            }
        params = {"name": "reef_wait", "arguments": {}, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": self.method, "params": params}
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": self.version,
            "mcp-method": self.method,
            "mcp-name": "reef_wait",
        }
        scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": "/mcp",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        await endpoint.serve(
            scope, json.dumps(body).encode(), self._receive, self._send, self.web, self._revoked()
        )

    async def _receive(self) -> Event:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, event: Event) -> None:
        self.sent.append(event)

    async def _revoked(self) -> None:
        await self.revoked.wait()

    def result(self) -> Json:
        """Return the result of the last message in the response."""
        found: Json = self.message()["result"]
        return found

    def message(self) -> Json:
        """Return the last message in the response."""
        body = b"".join(each.get("body", b"") for each in self.sent[1:]).decode()
        line = [each for each in body.splitlines() if each.startswith(("data:", "{"))][-1]
        found: Json = json.loads(line.removeprefix("data:"))
        return found


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"message": "[" * 3_000_000}, ""),
        ({"message": '{"a": [1, 2]}, ' * 100_000}, ""),
        ({"message": '"\\", [' * 100_000}, ""),
        ({"wait": [[]] * 9_000}, ""),
        ({"wait": ["\\"] * 30_000}, messages.TOO_MANY),
        ({"wait": [[]] * 20_000}, messages.TOO_MANY),
        ({"wait": list(range(20_000))}, messages.TOO_MANY),
        ({str(number): number for number in range(20_000)}, messages.TOO_MANY),
        ({"wait": [[[[] for _ in range(200)] for _ in range(200)]]}, messages.TOO_MANY),
    ],
)
def test_only_messages_that_are_soon_parsed_are_taken(arguments: Json, problem: str) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "params": {"arguments": arguments}}).encode()
    assert messages.problem_of(body) == problem


def run(work: Any) -> None:
    async def all_of_it() -> None:
        endpoint = Endpoint()
        try:
            async with asyncio.timeout(30):
                await work(endpoint)
        finally:
            await endpoint.close()

    asyncio.run(all_of_it())


@pytest.mark.parametrize("version", [LEGACY, MODERN])
@pytest.mark.parametrize("end", ["hung_up", "revoked"])
def test_wait_ends_with_its_client_and_its_access(version: str, end: str) -> None:
    async def work(endpoint: Endpoint) -> None:
        call = Call(FakeWeb(None), version)
        serving = asyncio.create_task(call.run(endpoint))
        await call.web.is_waiting.wait()
        getattr(call, end).set()
        await call.web.was_cancelled.wait()
        await serving
        assert call.sent[0]["status"] == 200
        if end == "revoked":
            assert call.sent[-1].get("more_body", False) is False

    run(work)


@pytest.mark.parametrize("version", [LEGACY, MODERN])
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(400, '{"error": "name is required"}'), "Error: name is required"),
        (Answer(503, '{"error": "the database does not answer"}'), "Error: the database does not"),
        (Answer(502, "<html>"), "Error: reef's web process did not answer"),
        (httpx.ConnectError("gone"), "Error: reef's web process did not answer"),
        (TooLong("it has more than 9 bytes"), "Error: the result cannot be sent"),
    ],
)
def test_failures_are_results_that_a_model_can_read(
    answer: Answer | Exception, text: str, version: str
) -> None:
    async def work(endpoint: Endpoint) -> None:
        call = Call(FakeWeb(answer), version)
        await call.run(endpoint)
        found = call.result()
        assert found["isError"] is True
        assert found["content"][0]["text"].startswith(text)

    run(work)


@pytest.mark.parametrize("method", ["tools/list", "resources/list"])
def test_list_that_is_too_long_is_an_error_that_says_so(method: str) -> None:
    async def work(endpoint: Endpoint) -> None:
        call = Call(FakeWeb(TooLong("it has more than 9 bytes")), LEGACY, method)
        await call.run(endpoint)
        error = call.message()["error"]
        assert error["message"] == "the list cannot be sent: it has more than 9 bytes"

    run(work)
