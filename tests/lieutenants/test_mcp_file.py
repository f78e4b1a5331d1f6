"""Reef's tools in the configuration of a lieutenant's agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lieutenants.agents import DIALECTS
from lieutenants.isolation import homes

ADDRESS = "https://reef.example"
OWN = {"command": "docs-server"}


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    """Return the operator's folder with the agent's configuration."""
    settings.AGENT_CONFIG_DIR = tmp_path / "pi"
    settings.AGENT_CONFIG_DIR.mkdir()
    settings.LIEUTENANTS_DIR = tmp_path / "lieutenants"
    settings.INFRA_URL = ADDRESS
    settings.AGENT_TOOLS = True
    return tmp_path / "pi"


def written() -> Path:
    """Return the file that a lieutenant's start makes."""
    home = homes.home_of("01HZZZZZZZZZZZZZZZZZZZZZZZ")
    homes.prepare(home, name="ada", prompt="", owner=None, shared=False, dialect=DIALECTS["pi"])
    return home.config / "mcp.json"


def test_agent_gets_the_tools_without_a_token_in_the_file(folder: Path) -> None:
    file = written()
    server = json.loads(file.read_text())["mcpServers"]["reef"]
    assert server["url"] == f"{ADDRESS}/mcp"
    assert server["headers"] == {"Authorization": "Bearer ${VERS_AUTH_TOKEN}"}
    assert file.stat().st_mode & 0o777 == 0o600


def test_operator_can_switch_the_tools_off(folder: Path, settings: Any) -> None:
    settings.AGENT_TOOLS = False
    assert json.loads(written().read_text()) == {"mcpServers": {}}


def test_servers_of_the_operator_stay(folder: Path) -> None:
    off = {"url": "https://elsewhere.example/mcp", "enabled": False}
    given = {"mcpServers": {"docs": OWN, "reef": off}, "autoEnableCodemode": False}
    (folder / "mcp.json").write_text(json.dumps(given))
    assert json.loads(written().read_text()) == given


@pytest.mark.parametrize("text", ["[]", "{oops", '{"mcpServers": []}'])
def test_file_that_is_none_stays(folder: Path, text: str) -> None:
    (folder / "mcp.json").write_text(text)
    assert written().read_text() == text


def test_agent_on_a_vm_gets_the_address_that_it_reaches(folder: Path) -> None:
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": {"docs": OWN}}))
    texts = DIALECTS["pi"].remote_config("https://public.example")
    servers = json.loads(texts["mcp.json"])["mcpServers"]
    assert servers["docs"] == OWN
    assert servers["reef"]["url"] == "https://public.example/mcp"
