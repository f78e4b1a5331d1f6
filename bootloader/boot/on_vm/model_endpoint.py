"""Configure the fleet's own model endpoint for the coding agents of a VM.

`python3 -m bootloader.boot.on_vm.model_endpoint FILE…` writes the endpoint REEF_MODEL_URL with the
model of REEF_AGENT_MODEL (`provider/model`) into each agent's `models.json` and leaves everything
else unchanged. The key is referenced, not written: agents read OPENAI_API_KEY from their
environment. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

KEY = "OPENAI_API_KEY"
# Agents require some key; an endpoint without keys ignores it.
NO_KEY = "none"


def main(argv: list[str]) -> int:
    """Update the files; return 1 with a message on failure."""
    url, model = os.environ.get("REEF_MODEL_URL", ""), os.environ.get("REEF_AGENT_MODEL", "")
    provider, _, name = model.partition("/")
    if not name:
        say("REEF_MODEL_URL is set without REEF_AGENT_MODEL: agents are told of no model there")
        return 0
    for path in map(Path, argv):
        try:
            enter(path, provider, name, url)
        except (OSError, ValueError) as error:
            say(f"{path} cannot be changed: {error}")
            return 1
    say(f"agents find the model {model} at the fleet's own endpoint")
    return 0


def enter(file: Path, provider: str, model: str, url: str) -> None:
    """Add the provider to this `models.json`. Raise ValueError if the file is not a valid one."""
    found: Any = json.loads(file.read_text()) if file.exists() else {}
    if not isinstance(found, dict) or not isinstance(found.get("providers", {}), dict):
        raise ValueError("it has no object 'providers'")
    found["providers"] = {**found.get("providers", {}), provider: entry(model, url)}
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.new")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(found, indent=1) + "\n")
    draft.replace(file)


def entry(model: str, url: str) -> dict[str, Any]:
    """Return a provider entry with one model of unknown cost."""
    costs = {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}
    return {
        "baseUrl": url,
        "api": "openai-completions",
        "apiKey": f"${KEY}" if os.environ.get(KEY) else NO_KEY,
        "compat": {
            "supportsDeveloperRole": False,
            "supportsReasoningEffort": False,
            "supportsStore": False,
        },
        "models": [
            {
                "id": model,
                "name": model,
                "reasoning": False,
                "input": ["text"],
                "contextWindow": 128000,
                "maxTokens": 16384,
                "cost": costs,
            }
        ],
    }


def say(line: str) -> None:
    """Print a line for the boot log."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
