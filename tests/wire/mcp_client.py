"""The official MCP client, for tests that are not asynchronous themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx2
import mcp_types as types
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

Result = TypeVar("Result")


def use(url: str, token: str, work: Callable[[Client], Awaitable[Result]], mode: Any) -> Result:
    """Connect to the MCP server at this URL, do the work, and return its result.

    `mode` is `legacy` for the protocol with a handshake, `auto` for the newest one.
    """

    async def run() -> Result:
        headers = {"authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(streamable_http_client(url, http_client=http), mode=mode) as client,
        ):
            return await work(client)

    return asyncio.run(run())


def text_of(result: Any) -> str:
    """Return the text of a tool's result."""
    [content] = result.content
    assert isinstance(content, types.TextContent)
    return content.text
