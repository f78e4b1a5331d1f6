"""Options of the bridge: pairs of names and values, then `--` and the agent's command line."""

from __future__ import annotations

NAMES = ("session", "instructions", "model", "mode", "permissions", "files", "terminals", "tools")


class Options:
    """Options of one start: the agent's command and session, and the requests it may make."""

    def __init__(self, argv: list[str]) -> None:
        """Read the arguments. Raises ValueError."""
        split = argv.index("--")
        words, self.command = argv[:split], argv[split + 1 :]
        given = dict(zip(words[::2], words[1::2]))  # noqa: B905 - strict= needs Python 3.10
        if not self.command or not given.keys() <= {f"--{name}" for name in NAMES}:
            raise ValueError("unknown options, or no command")
        values = {name: given.get(f"--{name}", "") for name in NAMES}
        # File with the id of the agent's session; file with the system prompt.
        self.session, self.instructions = values["session"], values["instructions"]
        # Names of a model and a mode; empty leaves the choice to the agent.
        self.model, self.mode = values["model"], values["mode"]
        # See `permissions` and `files`.
        self.permissions = values["permissions"] or "ask"
        self.files = values["files"] or "none"
        # Let it run commands through us.
        self.terminals = values["terminals"] == "yes"
        # Give it reef's MCP server; address and token are in the environment.
        self.tools = values["tools"] == "yes"
