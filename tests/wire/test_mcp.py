"""MCP at the edge: the official client, the real agent, permissions, and the end of access."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from tests import contract_calls
from tests.conftest import real_agent
from tests.contract_calls import CALLS
from tests.reef_site.test_tools import OF_THE_CONTRACT
from tests.stack import TOKEN, Stack
from tests.stub_llm import StubLLM
from tests.waiting import until
from tests.wire import mcp_client
from tests.wire.mcp_client import text_of

pytestmark = pytest.mark.agent
# It takes less than a second, but other tests may slow down the machine.
LIMIT_SECONDS = 5.0
# Before the names of reef's tools in pi.
PREFIX = "mcp__reef__"
# What leads pi to the tools of the contract whose names do not begin with `reef_`.
QUERIES = ("vm_tree", "registry", "vers_config")
# The protocol with a handshake, and the newest one without.
MODES = ["legacy", "auto"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, stub: StubLLM) -> Iterator[Stack]:
    """A reef with the real agent."""
    more = {"PI_PATH": real_agent("160"), "REEF_DEFAULT_MODEL": "stub/echo"}
    reef = Stack(tmp_path_factory.mktemp("mcp"), **more)
    (reef.data / "pi").mkdir()
    (reef.data / "pi" / "models.json").write_text(json.dumps(stub.models_json()))
    with reef as stack:
        stack.create("ada")
        stack.create("bob", parentVmId=vm_id(stack, "ada"))
        stack.create("cyd")
        yield stack


def vm_id(stack: Stack, name: str) -> str:
    return str(stack.get(name)["id"])


def node_token(stack: Stack, name: str) -> str:
    """Issue a token for a lieutenant; that of its running agent is revoked by it."""
    return str(stack.client.post(f"/vm-tree/vms/{vm_id(stack, name)}/token").json()["token"])


def use(stack: Stack, work: Any, token: str = TOKEN, mode: str = "auto") -> Any:
    return mcp_client.use(f"http://127.0.0.1:{stack.port}/mcp", token, work, mode)


@pytest.mark.parametrize("mode", MODES)
def test_client_calls_every_tool(stack: Stack, mode: str) -> None:
    listed = stack.client.get("/tools").json()["tools"]
    arguments: dict[str, dict[str, object]] = {
        "reef_lt_send": {"name": "cyd", "message": f"hello {mode}"},
        "reef_wait": {"lieutenants": ["cyd"], "seconds": 60},
        "reef_lt_read": {"name": "cyd"},
        "reef_lt_transcript": {"name": "cyd"},
        "vm_tree_search": {"q": "cyd"},
    }

    async def work(client: Client) -> dict[str, str]:
        found = (await client.list_tools()).tools
        assert [(each.name, each.input_schema) for each in found] == [
            (each["name"], each["inputSchema"]) for each in listed
        ]
        names = [*arguments, *(each.name for each in found if each.name not in arguments)]
        return {
            name: text_of(await client.call_tool(name, arguments.get(name, {}))) for name in names
        }

    texts = use(stack, work, mode=mode)
    assert set(texts) == {each["name"] for each in listed}
    assert texts["reef_lt_send"] == f'Sent to cyd (prompt): "hello {mode}"'
    assert texts["reef_wait"] == "Done: cyd is idle."
    assert texts["reef_lt_read"].endswith(f"tasks):\n\necho: hello {mode}")
    said = [line.split("] ", 1)[-1] for line in texts["reef_lt_transcript"].split("\n")]
    assert said[-2:] == [f"user: hello {mode}", f"text: echo: hello {mode}"]
    assert texts["reef_lt_create"] == "Error: name is required"
    assert "* cyd [idle]\n  Role: tests\n  local\n" in texts["reef_lt_status"]
    assert texts["vers_config_get"].startswith("API Key:    ")
    assert texts["vm_tree_search"].startswith("1 VM(s) that match cyd:\n")


@pytest.mark.parametrize("mode", MODES)
def test_long_wait_reports_progress(stack: Stack, mode: str) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async def work(client: Client) -> Any:
        wait = {"vms": ["never"], "seconds": 5}
        return await client.call_tool("reef_wait", wait, progress_callback=note)

    result = use(stack, work, mode=mode)
    assert text_of(result).startswith("Not yet: never is not registered.")
    assert result.structured_content["done"] is False
    assert len(seen) >= 2
    assert [rest for _, *rest in seen] == [[5.0, "waiting: never is not registered."]] * len(seen)


@pytest.mark.parametrize("mode", MODES)
def test_wait_for_an_event_ends_when_it_comes(stack: Stack, mode: str) -> None:
    made: list[str] = []

    async def make_once(progress: float, total: float | None, message: str | None) -> None:
        if not made:
            made.append(f"box-{mode}")
            new = {"vmId": made[0], "name": made[0], "category": "swarm_vm"}
            assert stack.client.post("/vm-tree/vms", json=new).status_code == 201

    async def work(client: Client) -> Any:
        event = {"kind": ["tree.created"], "subject": f"box-{mode}"}
        wait = {"event": event, "seconds": 60}
        return await client.call_tool("reef_wait", wait, progress_callback=make_once)

    began = time.monotonic()
    result = use(stack, work, mode=mode)
    assert text_of(result).endswith(f" is tree.created about box-{mode} by root token.")
    assert result.structured_content["waits"][0]["event"]["actor"] == "root token"
    assert time.monotonic() - began < 50


def test_node_token_reaches_its_own_line(stack: Stack) -> None:
    async def work(client: Client) -> tuple[set[str], set[str], Any, Any]:
        tools = {each.name for each in (await client.list_tools()).tools}
        uris = {each.uri for each in (await client.list_resources()).resources}
        own = await client.call_tool("reef_lt_read", {"name": "bob"})
        other = await client.call_tool("reef_lt_read", {"name": "cyd"})
        with pytest.raises(MCPError, match="rule: "):
            await client.read_resource("reef://lieutenants/cyd/transcript")
        return tools, uris, own, other

    tools, uris, own, other = use(stack, work, node_token(stack, "ada"))
    assert "reef_lt_create" in tools
    assert "reef_lt_discover" not in tools
    transcripts = {f"reef://lieutenants/{name}/transcript" for name in ("ada", "bob")}
    assert uris == {"reef://tree", "reef://lieutenants", *transcripts}
    assert own.is_error is False
    assert other.is_error is True
    assert text_of(other).startswith("Error: rule: a node reads")


def test_resources_are_listed_and_read(stack: Stack) -> None:
    stack.send("ada", "what is it?")
    stack.wait_idle("ada")
    taken = stack.client.post("/vm-tree/snapshot").json()["id"]

    async def work(client: Client) -> dict[str, str]:
        found = (await client.list_resources()).resources
        assert len((await client.list_resource_templates()).resource_templates) == 2
        texts = {}
        for each in found:
            [content] = (await client.read_resource(each.uri)).contents
            texts[each.uri] = getattr(content, "text", "")
        with pytest.raises(MCPError, match="There is no resource"):
            await client.read_resource("reef://elsewhere")
        return texts

    texts = use(stack, work)
    assert json.loads(texts["reef://tree"]) == stack.client.get("/vm-tree/tree").json()
    assert "what is it?" in texts["reef://lieutenants/ada/transcript"]
    assert json.loads(texts[f"reef://snapshots/{taken}"])["id"] == taken


def test_unknown_tool_is_an_error_of_the_protocol(stack: Stack) -> None:
    async def work(client: Client) -> None:
        with pytest.raises(MCPError, match="There is no tool 'rm'"):
            await client.call_tool("rm", {})

    use(stack, work)


@pytest.mark.parametrize("mode", MODES)
def test_revoked_token_ends_a_call(stack: Stack, mode: str) -> None:
    token, revoked_at = node_token(stack, "bob"), 0.0

    async def work(client: Client) -> float:
        async def revoke(progress: float, total: float | None, message: str | None) -> None:
            nonlocal revoked_at
            if not revoked_at:
                stack.client.delete(f"/vm-tree/vms/{vm_id(stack, 'bob')}/token")
                revoked_at = time.monotonic()

        wait = {"vms": ["never"], "seconds": 60}
        with pytest.raises(MCPError):
            await client.call_tool("reef_wait", wait, progress_callback=revoke)
        return time.monotonic()

    ended_at = use(stack, work, token, mode)
    assert ended_at - revoked_at < LIMIT_SECONDS
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"authorization": f"Bearer {token}"}
    assert stack.client.post("/mcp", json=message, headers=headers).status_code == 401


def test_only_bearer_tokens_and_own_pages_are_served(stack: Stack) -> None:
    def status(method: str = "POST", **headers: str) -> int:
        message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        accept = {"accept": "application/json, text/event-stream"}
        return stack.client.request(
            method, "/mcp", json=message, headers={**accept, **headers}
        ).status_code

    assert status() == 200
    assert status(origin=f"http://127.0.0.1:{stack.port}") == 200
    assert status(origin="https://evil.example") == 403
    assert status(host="evil.example") == 400
    assert status(authorization="Bearer wrong") == 401
    assert status(authorization="") == 401
    assert [status(method) for method in ("GET", "DELETE")] == [405, 405]
    too_much = {"jsonrpc": "2.0", "id": 1, "method": "x" * (17 << 20)}
    assert stack.client.post("/mcp", json=too_much).status_code == 413
    many = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": [[]] * 20_000}}
    assert stack.client.post("/mcp", json=many).status_code == 400


def test_client_goes_on_after_a_restart_of_the_edge(stack: Stack) -> None:
    async def work(client: Client) -> str:
        await client.list_tools()
        stack.kill("edge")
        stack.start("edge")
        until(stack.is_responding, 60)
        return text_of(await client.call_tool("vm_tree_find", {"type": "organ", "name": "none"}))

    for mode in MODES:
        assert use(stack, work, mode=mode) == 'No VMs found with organ "none".'


def create_with_tools(stack: Stack, stub: StubLLM, name: str, **fields: object) -> None:
    """Create a lieutenant whose agent has the tools of reef.

    On a slow machine, pi goes on with a prompt before it is connected to reef.
    """
    stack.create(name, **fields)
    prompt = f"are you ready, {name}?"

    def has_tools() -> bool:
        stack.send(name, prompt)
        stack.wait_idle(name)
        asked = [each["body"] for each in stub.requests if prompt in str(each["body"])]
        names = [each["function"]["name"] for each in asked[-1].get("tools", ())]
        return any(each.startswith(PREFIX) for each in names)

    until(has_tools, 200)


def test_real_agent_leads_a_child_asks_a_person_and_reports(stack: Stack, stub: StubLLM) -> None:
    create_with_tools(stack, stub, "eve", parentVmId=vm_id(stack, "ada"))
    calls: list[tuple[str, dict[str, object]]] = [
        ("reef_lt_create", {"name": "kid", "role": "helps"}),
        ("reef_wait", {"lieutenants": ["kid"], "seconds": 60}),
        ("reef_lt_send", {"name": "kid", "message": "count to three"}),
        ("reef_wait", {"lieutenants": ["kid"], "seconds": 60}),
        ("reef_lt_read", {"name": "kid"}),
        ("reef_ask", {"text": "Report it?", "options": ["yes", "no"], "seconds": 60}),
        ("reef_signal", {"to": "parent", "message": "The child has counted."}),
    ]
    match = {"contains": "lead a child"}
    stub.script(
        *(
            {"tool": {"name": PREFIX + name, "arguments": arguments}, "match": match}
            for name, arguments in calls
        ),
        {"text": "reported", "match": match},
    )
    stack.send("eve", "lead a child")
    open_ones = "/lieutenant/questions?state=open"
    [asked] = until(lambda: stack.client.get(open_ones).json()["questions"], 100)
    assert (asked["text"], asked["lieutenant"]) == ("Report it?", "eve")
    given = stack.client.post(f"/lieutenant/questions/{asked['id']}/answer", json={"answer": "yes"})
    assert given.status_code == 200, given.text
    until(lambda: "reported" in stack.texts("eve"), 100)

    results = stack.texts("eve", "tool_result")
    assert results[0].startswith('Lieutenant "kid" is ready [local].\n  Role: helps')
    assert results[1:5] == [
        "Done: kid is idle.",
        'Sent to kid (prompt): "count to three"',
        "Done: kid is idle.",
        "[kid] (idle, 1 tasks):\n\necho: count to three",
    ]
    assert results[5] == f"Done: question {asked['id']} is answered: yes."
    assert results[6].startswith("Signalled ada: message ")
    report = "[Signal from eve, your child]\nThe child has counted."
    until(lambda: report in stack.texts("ada", "user"), 30)
    assert stack.get("kid")["parentAgent"] == "eve"

    shown = [each["body"] for each in stub.requests if "lead a child" in str(each["body"])]
    offered = {each["function"]["name"] for each in shown[0]["tools"]}
    assert {"mcp__reef__reef_signal", "mcp__reef__reef_wait", "tool_search"} <= offered
    assert "mcp__reef__vm_tree_view" not in offered
    home = Path(stack.data, "lieutenants", vm_id(stack, "eve"))
    file = home / "agent" / "mcp.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "${VERS_AUTH_TOKEN}" in file.read_text()


@pytest.mark.rotated
def test_real_agent_calls_the_tools_of_the_contract(stack: Stack, stub: StubLLM) -> None:
    create_with_tools(stack, stub, "zoe")
    assert {name for name, *_ in CALLS} >= OF_THE_CONTRACT - {"reef_lt_discover"}
    contract_calls.call_all(
        stub,
        lambda text: stack.send("zoe", text),
        lambda: stack.get("pup"),
        lambda kind: stack.texts("zoe", kind),
        prefix=PREFIX,
        # Tools that are not for daily work are declared once the model has looked for them.
        first=[{"name": "tool_search", "arguments": {"query": query}} for query in QUERIES],
    )
