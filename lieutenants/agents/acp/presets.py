"""Command lines of agents that speak the Agent Client Protocol, and how to get them."""

from __future__ import annotations

from lieutenants.agents.base import Preset

PRESETS = {
    "claude": Preset(
        "Claude Code", ("claude-agent-acp",), "npm install -g @zed-industries/claude-agent-acp"
    ),
    "codex": Preset("Codex", ("codex-acp",), "npm install -g @zed-industries/codex-acp"),
    "gemini": Preset("Gemini CLI", ("gemini", "--acp"), "npm install -g @google/gemini-cli"),
    "opencode": Preset("opencode", ("opencode", "acp"), "npm install -g opencode-ai"),
    "goose": Preset("goose", ("goose", "acp"), "its installer, see its documentation"),
    "copilot": Preset("Copilot", ("copilot", "--acp"), "npm install -g @github/copilot"),
    "pi": Preset("pi by its adapter", ("pi-acp",), "npm install -g pi-acp"),
}


def hint(command: list[str]) -> str:
    """Return how to get the program of a command line, if it is one of these; else nothing."""
    found = (each for each in PRESETS.values() if each.command[0] == command[0])
    preset = next(found, None)
    return f"; get it with {preset.install}" if preset else ""
