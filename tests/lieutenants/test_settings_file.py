"""The settings that reef writes for each lieutenant's agent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lieutenants.agents import DIALECTS
from lieutenants.agents.pi.program import Agent
from lieutenants.agents.pi.settings_file import DEFAULTS
from lieutenants.isolation import homes


def written(settings: Any, tmp_path: Path, text: str | None) -> str:
    settings.AGENT_CONFIG_DIR = tmp_path / "pi"
    settings.AGENT_CONFIG_DIR.mkdir()
    settings.LIEUTENANTS_DIR = tmp_path / "lieutenants"
    if text is not None:
        (settings.AGENT_CONFIG_DIR / "settings.json").write_text(text)
    home = homes.home_of("01HZZZZZZZZZZZZZZZZZZZZZZZ")
    homes.prepare(home, name="ada", prompt="", owner=None, shared=False, dialect=DIALECTS["pi"])
    if text is not None:
        assert (settings.AGENT_CONFIG_DIR / "settings.json").read_text() == text
    return (home.config / "settings.json").read_text()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, DEFAULTS),
        ("{}", DEFAULTS),
        ('{"theme": "dark" /* ours */ }', {**DEFAULTS, "theme": "dark"}),
        (
            '{"cacheWarming": "idle", "defaultProjectTrust": "always"}',
            {"cacheWarming": "idle", "defaultProjectTrust": "always"},
        ),
    ],
)
def test_settings_of_the_operator_win(
    settings: Any, tmp_path: Path, text: str | None, found: dict[str, str]
) -> None:
    assert json.loads(written(settings, tmp_path, text)) == found
    assert DEFAULTS["cacheWarming"] == "off"


def test_settings_that_are_no_object_stay(settings: Any, tmp_path: Path) -> None:
    assert written(settings, tmp_path, '["odd"]') == '["odd"]'


@pytest.mark.parametrize(
    ("version", "limit"),
    [((), 3), ((0, 73, 1), 3), ((1, 5, 0), 3), ((1, 5, 1), 16), ((1, 6, 0), 16)],
)
def test_agent_that_saves_logins_has_time_to_end(version: tuple[int, ...], limit: int) -> None:
    assert Agent(Path("/opt/pi"), version).stop_seconds == limit
