"""The page "Connect": how people and agents use this reef from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from lieutenants.agents import extension
from reef_site.api.tools import may_use
from reef_site.client import program
from reef_site.common.tools import Tool, declared_tools
from versconfig import config

EXAMPLE_TOOL, EXAMPLE_ARGUMENTS = "reef_lt_read", {"name": "ada", "tail": 500}
# A wait by MCP may take an hour.
TOOL_SECONDS = 3700


@dataclass(frozen=True)
class McpClient:
    """A program that speaks MCP: where it has its settings, and what to add there."""

    name: str
    file: str
    text: str


@dataclass(frozen=True)
class Argument:
    """An argument of a tool."""

    name: str
    about: str
    is_required: bool


@login_required
@require_GET
def connect(request: HttpRequest) -> HttpResponse:
    """Show settings, commands, tools and examples. There is no secret on the page."""
    url = address()
    tools = [each for each in declared_tools().values() if may_use(request.user, each)]
    context = {
        "url": url,
        "clients": mcp_clients(url),
        "extension_version": extension.version(),
        "groups": [(name, about) for name, (about, _add) in program.GROUPS.items()],
        "tools": [(tool, _arguments(tool)) for tool in tools],
        "curl": _curl(),
        "python": _python(),
    }
    return render(request, "connect.html", context)


def address() -> str:
    """Return the address of this reef for others, without a slash at the end."""
    return (settings.PUBLIC_URL or config.text("VERS_INFRA_URL") or settings.INFRA_URL).rstrip("/")


def mcp_clients(url: str) -> list[McpClient]:
    """Return the settings of known clients. All read the token from the environment."""
    mcp = f"{url}/mcp"
    codex = [
        "[mcp_servers.reef]",
        f"url = {json.dumps(mcp)}",
        'bearer_token_env_var = "VERS_AUTH_TOKEN"',
        f"tool_timeout_sec = {TOOL_SECONDS}",
    ]
    return [
        McpClient(
            "Claude Code",
            ".mcp.json in the project",
            _servers({"type": "http", "url": mcp, "headers": _headers("${VERS_AUTH_TOKEN}")}),
        ),
        McpClient("Codex", "~/.codex/config.toml", "\n".join(codex)),
        McpClient(
            "Cursor",
            "~/.cursor/mcp.json",
            _servers({"url": mcp, "headers": _headers("${env:VERS_AUTH_TOKEN}")}),
        ),
        McpClient(
            "Gemini CLI",
            "~/.gemini/settings.json",
            _servers({"httpUrl": mcp, "headers": _headers("$VERS_AUTH_TOKEN")}),
        ),
        McpClient(
            "pi, from 0.99 on",
            "~/.pi/agent/mcp.json",
            _servers({"url": mcp, "headers": _headers("${VERS_AUTH_TOKEN}")}),
        ),
    ]


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _servers(server: dict[str, Any]) -> str:
    return json.dumps({"mcpServers": {"reef": server}}, indent=2)


def _arguments(tool: Tool) -> list[Argument]:
    return list(_arguments_of(tool.input_schema()))


def _arguments_of(schema: dict[str, Any], above: str = "") -> Iterator[Argument]:
    """Yield the arguments of a schema, each followed by what is in it."""
    required = schema.get("required", ())
    for name, facts in schema.get("properties", {}).items():
        yield Argument(f"{above}{name}", facts.get("description", ""), name in required)
        yield from _arguments_of(facts, f"{above}{name}.")


def _curl() -> str:
    return (
        'curl -H "Authorization: Bearer $VERS_AUTH_TOKEN" -H "Content-Type: application/json" \\\n'
        f"  -d '{json.dumps(EXAMPLE_ARGUMENTS)}' \"$VERS_INFRA_URL/tools/{EXAMPLE_TOOL}\""
    )


def _python() -> str:
    return "\n".join(
        [
            "import json, os, urllib.request",
            "",
            "def call(tool, **arguments):",
            "    request = urllib.request.Request(",
            "        f\"{os.environ['VERS_INFRA_URL']}/tools/{tool}\",",
            "        json.dumps(arguments).encode(),",
            "        {",
            '            "Authorization": f"Bearer {os.environ[\'VERS_AUTH_TOKEN\']}",',
            '            "Content-Type": "application/json",',
            "        },",
            "    )",
            "    with urllib.request.urlopen(request, timeout=75) as response:",
            "        return json.load(response)",
            "",
            f'print(call("{EXAMPLE_TOOL}", **{EXAMPLE_ARGUMENTS!r})["text"])',
        ]
    )
