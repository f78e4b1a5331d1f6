"""The MCP server, by the official SDK. Only `endpoint` imports it, at the first request."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError

from reef_site.edge.mcp import resources
from reef_site.edge.mcp.web import SCOPE_KEY, Json, TooLong, Web
from reef_site.edge.request_bodies import MAX_BODY

PAGE_SIZE = 500
INSTRUCTIONS = (
    "reef runs a fleet of coding agents (lieutenants) and VMs in a tree. You reach your own place "
    "in it: create lieutenants below you, send them tasks, wait with reef_wait, read answers with "
    "reef_lt_read, and report to your parent with reef_signal."
)
AWAY = "reef's web process did not answer; look before you repeat."

Context = Any


def make_manager() -> StreamableHTTPSessionManager:
    """Return the manager of a server without sessions."""
    # One line at level INFO for each request.
    logging.getLogger("mcp").setLevel(logging.WARNING)
    server: Server[Any] = Server(
        "reef",
        version="1",
        title="reef",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        # The arguments of a call are checked by web.
        get_tool_input_schema=lambda _name: None,
    )
    return StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=MAX_BODY)


async def list_tools(
    context: Context, _params: types.PaginatedRequestParams | None
) -> types.ListToolsResult:
    found = await _json(context, "/tools")
    return types.ListToolsResult(tools=[_tool(each) for each in found["tools"]])


async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    async def report(elapsed: float, total: float, message: str) -> None:
        await context.session.report_progress(elapsed, total, message)

    try:
        answer = await _web(context).call_tool(params.name, params.arguments or {}, report)
    except httpx.HTTPError:
        return _failed(AWAY)
    except TooLong as error:
        return _failed(f"the result cannot be sent: {error}")
    if answer.status == 404:
        raise MCPError(types.INVALID_PARAMS, answer.error)
    if answer.status != 200:
        return _failed(answer.error or AWAY)
    result = answer.json()
    return types.CallToolResult(
        content=[types.TextContent(text=result["text"])],
        structured_content=result.get("details"),
        is_error=result["isError"],
    )


async def list_resources(
    context: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourcesResult:
    try:
        found = [each async for each in resources.readable(_web(context))]
    except httpx.HTTPError:
        raise MCPError(types.INTERNAL_ERROR, AWAY) from None
    except TooLong as error:
        raise MCPError(types.INTERNAL_ERROR, f"the list cannot be sent: {error}") from None
    cursor = params.cursor if params else None
    first = int(cursor) if cursor and cursor.isdecimal() else 0
    page = found[first : first + PAGE_SIZE]
    more = str(first + PAGE_SIZE) if len(found) > first + PAGE_SIZE else None
    return types.ListResourcesResult(
        resources=[
            types.Resource(
                uri=each.uri, name=each.name, description=each.about, mime_type=each.mime_type
            )
            for each in page
        ],
        next_cursor=more,
    )


async def list_templates(
    _context: Context, _params: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    return types.ListResourceTemplatesResult(
        resource_templates=[
            types.ResourceTemplate(
                uri_template=kind.uri,
                name=kind.name,
                description=kind.about,
                mime_type=kind.mime_type,
            )
            for kind in resources.KINDS
            if kind.is_template
        ]
    )


async def read_resource(
    context: Context, params: types.ReadResourceRequestParams
) -> types.ReadResourceResult:
    uri = str(params.uri)
    found = resources.find(uri)
    if found is None:
        raise MCPError(types.INVALID_PARAMS, f"There is no resource {uri[:200]}")
    kind, path = found
    try:
        answer = await _web(context).get(path)
    except httpx.HTTPError:
        raise MCPError(types.INTERNAL_ERROR, AWAY) from None
    except TooLong as error:
        raise MCPError(types.INVALID_PARAMS, f"{uri} cannot be sent: {error}") from None
    if answer.status != 200:
        raise MCPError(types.INVALID_PARAMS, answer.error or f"{uri} cannot be read")
    contents = types.TextResourceContents(uri=uri, mime_type=kind.mime_type, text=answer.text)
    return types.ReadResourceResult(contents=[contents])


def _web(context: Context) -> Web:
    web: Web = context.request.scope[SCOPE_KEY]
    return web


async def _json(context: Context, path: str) -> Json:
    """Return the JSON at a path. Raises MCPError."""
    try:
        answer = await _web(context).get(path)
    except httpx.HTTPError:
        raise MCPError(types.INTERNAL_ERROR, AWAY) from None
    except TooLong as error:
        raise MCPError(types.INTERNAL_ERROR, f"the list cannot be sent: {error}") from None
    if answer.status != 200:
        raise MCPError(types.INVALID_REQUEST, answer.error or AWAY)
    return answer.json()


def _tool(facts: Json) -> types.Tool:
    hints = types.ToolAnnotations(
        read_only_hint=facts["readOnly"],
        destructive_hint=facts["destructive"],
        open_world_hint=False,
    )
    return types.Tool(
        name=facts["name"],
        description=facts["description"],
        input_schema=facts["inputSchema"],
        annotations=hints,
    )


def _failed(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=f"Error: {text}")], is_error=True)
