"""An agent on the official SDK of the Agent Client Protocol, which checks each message of reef.

It does what a message says, and keeps its sessions in the file `sdk-sessions.json` in HOME.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import acp
from acp import schema
from acp.interfaces import Client

SESSIONS = Path(os.environ["HOME"]) / "sdk-sessions.json"


def stored() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(SESSIONS.read_text()) if SESSIONS.exists() else {}
    return found


class SdkAgent:
    """The methods of `acp.Agent` that reef uses."""

    def __init__(self) -> None:
        self._model, self._mode, self._servers = "big", "work", [""]
        self._cancelled = asyncio.Event()

    def on_connect(self, conn: Client) -> None:
        self._client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> schema.InitializeResponse:
        capabilities = schema.AgentCapabilities(
            load_session=True, mcp_capabilities=schema.McpCapabilities(http=True)
        )
        return schema.InitializeResponse(
            protocol_version=acp.PROTOCOL_VERSION, agent_capabilities=capabilities
        )

    async def new_session(self, cwd: str, **more: Any) -> schema.NewSessionResponse:
        ident = f"sdk-{len(stored()) + 1}"
        SESSIONS.write_text(json.dumps({**stored(), ident: []}))
        self._connect(more)
        return schema.NewSessionResponse(session_id=ident, **self._facts())

    async def load_session(
        self, cwd: str, session_id: str, **more: Any
    ) -> schema.LoadSessionResponse:
        self._connect(more)
        for each in stored()[session_id]:
            await self._send(session_id, acp.update_user_message_text(each))
            await self._send(session_id, acp.update_agent_message_text(f"again: {each}"))
        return schema.LoadSessionResponse(**self._facts())

    async def set_session_mode(self, session_id: str, mode_id: str, **_: Any) -> None:
        self._mode = mode_id

    async def set_config_option(
        self, config_id: str, session_id: str, value: str | bool, **_: Any
    ) -> schema.SetSessionConfigOptionResponse:
        self._model = str(value)
        return schema.SetSessionConfigOptionResponse(config_options=[self._model_option()])

    async def prompt(self, session_id: str, prompt: Any, **_: Any) -> schema.PromptResponse:
        text = prompt[-1].text
        self._cancelled.clear()
        reason = await self._answer(session_id, text)
        sessions = stored()
        sessions[session_id].append(text)
        SESSIONS.write_text(json.dumps(sessions))
        usage = schema.Usage(total_tokens=10, input_tokens=7, output_tokens=3)
        return schema.PromptResponse(stop_reason=reason, usage=usage)

    async def cancel(self, session_id: str, **_: Any) -> None:
        self._cancelled.set()

    # -- what it does -------------------------------------------------------------------------

    async def _answer(self, session: str, text: str) -> Any:
        word, _, rest = text.partition(" ")
        if word == "wait":
            await self._say(session, "waiting")
            await self._cancelled.wait()
            return "cancelled"
        if word == "work":
            await self._work(session, rest)
        elif word == "who":
            await self._say(session, json.dumps([self._model, self._mode, self._servers]))
        elif word == "history":
            await self._say(session, json.dumps(stored()[session]))
        else:
            await self._say(session, f"echo: {text}")
        return "end_turn"

    async def _work(self, session: str, file: str) -> None:
        """Plan, ask for permission, then write and read a file and run a command of the client."""
        await self._send(session, acp.update_plan([acp.plan_entry("Write", status="in_progress")]))
        call = acp.start_tool_call("call-1", f"Write {file}", kind="edit", status="pending")
        await self._send(session, call)
        options = [
            schema.PermissionOption(option_id="yes", name="Allow", kind="allow_once"),
            schema.PermissionOption(option_id="no", name="Reject", kind="reject_once"),
        ]
        update = schema.ToolCallUpdate(tool_call_id="call-1", title=f"Write {file}")
        asked = await self._client.request_permission(session, update, options)
        chosen = getattr(asked.outcome, "option_id", "")
        if chosen == "yes":
            path = str(Path.cwd() / file)
            await self._client.write_text_file(session, path, "written by an agent")
            found = await self._client.read_text_file(session, path)
            made = await self._client.create_terminal(session, "cat", [file])
            ended = await self._client.wait_for_terminal_exit(session, made.terminal_id)
            shown = await self._client.terminal_output(session, made.terminal_id)
            await self._client.release_terminal(session, made.terminal_id)
            same = found.content == shown.output
            result = f"{ended.exit_code} {same} {shown.output}"
        else:
            result = f"not allowed: {chosen}"
        content = [acp.tool_content(acp.text_block(result))]
        done = acp.update_tool_call("call-1", status="completed", content=content)
        await self._send(session, done)
        await self._say(session, "worked")

    async def _say(self, session: str, text: str) -> None:
        await self._send(session, acp.update_agent_message_text(text))

    async def _send(self, session: str, update: Any) -> None:
        await self._client.session_update(session, update)

    # -- what it offers -----------------------------------------------------------------------

    def _connect(self, given: dict[str, Any]) -> None:
        self._servers = [each.url for each in given.get("mcp_servers") or ()]

    def _facts(self) -> dict[str, Any]:
        modes = [schema.SessionMode(id=each, name=each) for each in ("plan", "work")]
        return {
            "modes": schema.SessionModeState(current_mode_id=self._mode, available_modes=modes),
            "config_options": [self._model_option()],
        }

    def _model_option(self) -> Any:
        options = [schema.SessionConfigSelectOption(value=each, name=each) for each in MODELS]
        facts: dict[str, Any] = {"id": "model", "name": "Model", "category": "model"}
        return schema.SessionConfigOptionSelect(
            **facts, type="select", current_value=self._model, options=options
        )


MODELS = ("big", "small")

if __name__ == "__main__":
    agent: Any = SdkAgent()
    asyncio.run(acp.run_agent(agent))
