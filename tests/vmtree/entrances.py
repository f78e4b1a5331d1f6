"""The same actions through each entrance, in process: REST, MCP and the command line."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock
from urllib.error import HTTPError

import httpx
import mcp_types as types
from django.test import Client

from reef_site.client import program
from reef_site.edge.mcp import server
from reef_site.edge.mcp.web import SCOPE_KEY, Web

Json = dict[str, Any]
Result = TypeVar("Result")
ALLOWED, REFUSED, UNKNOWN, FAILED = "allowed", "refused", "unknown token", "failed"


@dataclass(frozen=True)
class Act:
    """One action on a target, as each entrance knows it. A target is the id and name of a VM."""

    action: str
    tool: str
    arguments: Callable[[str], Json]
    words: Callable[[str], list[str]]
    # Method, path and body.
    request: Callable[[str], tuple[str, str, Json | None]]
    # It needs a living lieutenant, and may fail by its status, which is checked after the rights.
    on_lieutenant: bool = False


LT = "/lieutenant/lieutenants"
ACTS = (
    Act(
        "READ",
        "vm_tree_view",
        lambda vm: {"vmId": vm},
        lambda vm: ["tree", "view", vm],
        lambda vm: ("GET", f"/vm-tree/vms/{vm}", None),
    ),
    Act(
        "READ_TRANSCRIPT",
        "reef_lt_read",
        lambda vm: {"name": vm},
        lambda vm: ["lieutenants", "read", vm],
        lambda vm: ("GET", f"{LT}/{vm}/read", None),
        on_lieutenant=True,
    ),
    Act(
        "WRITE",
        "registry_heartbeat",
        lambda vm: {"id": vm},
        lambda vm: ["vms", "heartbeat", vm],
        lambda vm: ("POST", f"/registry/vms/{vm}/heartbeat", {}),
    ),
    Act(
        "COMMAND",
        "vm_tree_operate",
        lambda vm: {"vmId": vm, "operation": "pause", "dryRun": True},
        lambda vm: [
            "tools",
            "call",
            "vm_tree_operate",
            f"vmId={vm}",
            "operation=pause",
            "dryRun:=true",
        ],
        lambda vm: ("POST", f"/vm-tree/vms/{vm}/pause", {"dryRun": True}),
    ),
    Act(
        "SEND",
        "reef_lt_send",
        lambda vm: {"name": vm, "message": "hello"},
        lambda vm: ["lieutenants", "send", vm, "hello"],
        lambda vm: ("POST", f"{LT}/{vm}/send", {"message": "hello"}),
        on_lieutenant=True,
    ),
    Act(
        "START",
        "reef_lt_resume",
        lambda vm: {"name": vm},
        lambda vm: ["lieutenants", "resume", vm],
        lambda vm: ("POST", f"{LT}/{vm}/resume", {}),
        on_lieutenant=True,
    ),
)


def through_rest(token: str, act: Act, target: str) -> str:
    method, path, body = act.request(target)
    answer = _ask(token, method, path, None if body is None else json.dumps(body).encode())
    if answer.status_code == 401:
        return UNKNOWN
    if answer.status_code == 403:
        return REFUSED if answer.json()["error"].startswith("rule: ") else FAILED
    return ALLOWED if answer.status_code < 400 or act.on_lieutenant else FAILED


def through_mcp(token: str, act: Act, target: str) -> str:
    """Call the tool as the MCP server does. The edge has web check the caller first."""
    if _ask(token, "POST", "/mcp", b"{}").status_code == 401:
        return UNKNOWN

    async def call(path: str, payload: bytes | None) -> httpx.Response:
        answer = _ask(token, "GET" if payload is None else "POST", path, payload)
        return httpx.Response(answer.status_code, content=answer.content)

    web: Any = Web(call, mock.Mock(), mock.Mock(), mock.Mock())
    context = SimpleNamespace(request=SimpleNamespace(scope={SCOPE_KEY: web}))
    params = types.CallToolRequestParams(name=act.tool, arguments=act.arguments(target))
    result = _at_once(server.call_tool(context, params))
    [content] = result.content
    assert isinstance(content, types.TextContent)
    return _outcome(act, ok=not result.is_error, error=content.text.removeprefix("Error: "))


def through_client(token: str, act: Act, target: str) -> str:
    status, _, errors = run_client(token, act.words(target))
    error = errors.removeprefix("reef: ")
    if error.startswith("Unauthorized"):
        return UNKNOWN
    return _outcome(act, ok=status == 0, error=error)


def run_client(token: str, words: list[str]) -> tuple[int, str, str]:
    """Run a command of the client, whose requests web answers in process.

    Return its exit status, and what it printed on stdout and stderr.
    """
    environment = {"VERS_INFRA_URL": "http://testserver", "VERS_AUTH_TOKEN": token}
    output, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict("os.environ", environment),
        mock.patch("urllib.request.build_opener", return_value=_Opener()),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        status = program.run(words)
    return status, output.getvalue(), errors.getvalue()


ENTRANCES = {"REST": through_rest, "MCP": through_mcp, "command line": through_client}


def _outcome(act: Act, *, ok: bool, error: str) -> str:
    if ok:
        return ALLOWED
    if error.startswith("rule: "):
        return REFUSED
    return ALLOWED if act.on_lieutenant else FAILED


def _ask(token: str, method: str, path: str, body: bytes | None) -> Any:
    headers = {"authorization": f"Bearer {token}"}
    return Client().generic(
        method, path, body or b"", content_type="application/json", headers=headers
    )


def _at_once(work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine that waits for nothing.

    There is no event loop, in which the database could not be used.
    """
    try:
        work.send(None)
    except StopIteration as done:
        found: Result = done.value
        return found
    raise AssertionError("it waits")


class _Opener:
    """Stands for the connections of the client."""

    def open(self, asked: Any, timeout: float) -> io.BytesIO:
        token = asked.get_header("Authorization").removeprefix("Bearer ")
        answer = _ask(token, asked.get_method(), asked.selector, asked.data)
        body = io.BytesIO(answer.content)
        if answer.status_code >= 400:
            raise HTTPError(asked.full_url, answer.status_code, "", answer.headers, body)
        return body
