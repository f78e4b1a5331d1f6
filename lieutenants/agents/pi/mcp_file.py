"""`mcp.json` of a lieutenant's pi: its MCP client gets the tools of reef.

The file names the variable with the lieutenant's token, not the token. Versions before 0.99 have no
MCP client and do not read it.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from django.conf import settings

from lieutenants.agents.pi.settings_file import read_json

NAME = "mcp.json"
SERVER = "reef"
_MODE = 0o600


def text_of(folder: Path, address: str) -> str:
    """Return the operator's `mcp.json` with reef at this address as a further server.

    Without `REEF_AGENT_TOOLS` reef is not added. An entry of the operator's own under this name is
    kept, and a file that is not such an object is left as it is. Raises OSError.
    """
    found: Any = {}
    with contextlib.suppress(FileNotFoundError):
        text = (folder / NAME).read_text(encoding="utf-8")
        try:
            found = read_json(folder / NAME)
        except ValueError:
            return text
        if not isinstance(found, dict) or not isinstance(found.get("mcpServers", {}), dict):
            return text
    own = {SERVER: _server(address)} if settings.AGENT_TOOLS else {}
    servers = {**own, **found.get("mcpServers", {})}
    return json.dumps({**found, "mcpServers": servers}, indent=2) + "\n"


def add_reef(folder: Path, address: str) -> None:
    """Write the file into a lieutenant's own folder. Raises OSError."""
    text, path = text_of(folder, address), folder / NAME
    path.unlink(missing_ok=True)
    path.touch(mode=_MODE)
    path.write_text(text, encoding="utf-8")


def _server(address: str) -> dict[str, Any]:
    return {
        "url": f"{address}/mcp",
        "headers": {"Authorization": "Bearer ${VERS_AUTH_TOKEN}"},
        "description": "The fleet you belong to: other agents, VMs, and your place among them",
        # Those for daily work are declared to the model, the others when it looks for them.
        "exposure": "deferred",
        "toolExposure": {"reef_*": "direct"},
    }
