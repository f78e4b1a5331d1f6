"""Responses that the edge holds: who may still have them when their wait is over."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import httpx

from lieutenants.conditions import Conditions
from lieutenants.messages import waits
from reef_site.edge import server
from reef_site.edge.mcp.web import Web
from reef_site.edge.open_waits import MAX_OPEN, OpenWaits
from reef_site.edge.web_client import WebClient

NODE = (b"authorization", b"Bearer reef_node_x")
REFUSED = {"error": "rule: a node reads transcripts of itself and its descendants"}
ASKED = {"text": "Not yet: question q is open.", "details": {"done": False}, "isError": False}
ANSWERED = {"text": "Done: question q is answered.", "details": {"done": True}, "isError": False}
LOST = {"text": f"Error: {REFUSED['error']}", "isError": True}

Respond = Callable[[httpx.Request], httpx.Response]


class FakeStreams:
    """Stand-in whose waits end by the event `over`, and whose callers lose access by `revoked`."""

    def __init__(self) -> None:
        self.over, self.revoked = asyncio.Event(), asyncio.Event()
        self.guard = self
        # For waits that do not end.
        self.nothing = asyncio.Event()

    wait_of = staticmethod(waits.parse)

    async def until_over(self, _wait: Any, _most: float = 0) -> None:
        await self.over.wait()

    async def until_revoked(self, *_credentials: Any) -> None:
        await self.revoked.wait()

    def key_of(self, authorization: bytes, _cookies: bytes) -> str:
        return authorization.decode()

    async def state_of(self, _wait: Any) -> dict[str, Any]:
        return {}


def scope_of(path: str, headers: Any) -> dict[str, Any]:
    where, _, query = path.partition("?")
    return {
        "type": "http",
        "method": "GET" if query else "POST",
        "path": where,
        "query_string": query.encode(),
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"h"), NODE, *headers],
    }


def held(
    path: str, respond: Respond, *, ends: str = "over", headers: Any = (), others: int = 0
) -> Any:
    """Return status and JSON of a response that is held until the event `ends`."""
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def work() -> None:
        edge = server.Edge()
        edge._parts.web = WebClient(httpx.AsyncClient(transport=httpx.MockTransport(respond)))
        edge._parts.streams = FakeStreams()
        getattr(edge._parts.streams, ends).set()
        with contextlib.ExitStack() as waits_of_others:
            for _ in range(others):
                waits_of_others.enter_context(edge._parts.open_waits.place(NODE[1].decode()))
            await edge(scope_of(path, headers), receive, send)

    asyncio.run(asyncio.wait_for(work(), 20))
    return sent[0]["status"], json.loads(sent[1]["body"])


def tool(later: dict[str, Any], status: int = 200) -> Respond:
    """Return web with a tool that waits for a question; `later` is the state when it is over."""
    wait = Conditions(seconds=30, questions=["q"])

    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/tools/reef_ask":
            return httpx.Response(200, json=ASKED, headers={"Reef-Wait": wait.header()})
        assert (request.method, request.url.path) == ("POST", "/tools/reef_wait")
        assert request.headers["authorization"] == "Bearer reef_node_x"
        asked = json.loads(request.content)
        assert (asked["questions"], asked["seconds"], asked["until"]) == (["q"], 0, "all")
        return httpx.Response(status, json=later)

    return respond


def test_result_of_a_tool_is_what_its_caller_may_read_after_the_wait() -> None:
    assert held("/tools/reef_ask", tool(ANSWERED)) == (200, ANSWERED)
    assert held("/tools/reef_ask", tool(LOST))[1]["text"] == LOST["text"]
    assert held("/tools/reef_ask", tool(REFUSED, 401)) == (401, REFUSED)


def test_held_response_is_refused_as_soon_as_the_token_is_revoked() -> None:
    status, body = held("/tools/reef_ask", tool(ANSWERED), ends="revoked")
    assert (status, body) == (401, {"error": "the access that this request began with has ended"})


def test_caller_with_too_many_open_waits_is_refused_or_answered_at_once() -> None:
    def question(request: httpx.Request) -> httpx.Response:
        wait = {"Reef-Wait": waits.decided("q", 30)} if request.url.query else {}
        return httpx.Response(200, json={"id": "q"}, headers=wait)

    path = "/lieutenant/questions/q?wait=30"
    assert held(path, question, others=MAX_OPEN - 1)[0] == 200
    status, body = held(path, question, others=MAX_OPEN)
    assert (status, body["error"].split(" of ")[0]) == (429, "wait: 32 waits")
    # The question was asked, so its agent must learn the id.
    asked = held("/tools/reef_ask", tool(ASKED), ends="nothing", others=MAX_OPEN)
    assert asked == (200, ASKED)


def test_question_is_not_shown_to_a_caller_that_may_not_read_it_any_more() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.query:
            return httpx.Response(
                200, json={"id": "q"}, headers={"Reef-Wait": waits.decided("q", 30)}
            )
        return httpx.Response(403, json=REFUSED)

    assert held("/lieutenant/questions/q?wait=30", respond) == (403, REFUSED)


def test_conditional_headers_of_the_client_stay_with_its_own_request() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.query:
            assert request.headers["if-none-match"] == "*"
            return httpx.Response(
                200, json={"id": "q"}, headers={"Reef-Wait": waits.decided("q", 30)}
            )
        if "if-none-match" in request.headers or "if-modified-since" in request.headers:
            return httpx.Response(304)
        return httpx.Response(200, json={"id": "q", "state": "answered"})

    own = [(b"if-none-match", b"*"), (b"if-modified-since", b"Mon, 30 Nov 2026 14:00:00 GMT")]
    found = held("/lieutenant/questions/q?wait=30", respond, headers=own)
    assert found == (200, {"id": "q", "state": "answered"})


def test_tool_of_an_mcp_client_has_the_state_that_its_caller_may_read() -> None:
    async def work() -> list[str]:
        texts = []
        for later in (ANSWERED, LOST):
            web = httpx.AsyncClient(transport=httpx.MockTransport(tool(later)))
            streams = FakeStreams()
            streams.over.set()

            async def call(
                path: str, payload: bytes | None, web: httpx.AsyncClient = web
            ) -> httpx.Response:
                headers = {"authorization": "Bearer reef_node_x"}
                return await web.post(f"http://web{path}", content=payload, headers=headers)

            async def progress(*_facts: Any) -> None:
                """Nobody is told."""

            async def until(work: Any) -> None:
                await work

            mine = Web(call, streams, until, lambda: OpenWaits().place("x"))
            answer = await mine.call_tool("reef_ask", {}, progress)
            texts.append(answer.json()["text"])
        return texts

    assert asyncio.run(work()) == [ANSWERED["text"], LOST["text"]]
