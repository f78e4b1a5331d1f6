"""Tells the coding agents of a VM where their model is, if the fleet has an endpoint of its own.

`python3 -m bootloader.on_vm.models FILE…` enters the endpoint REEF_MODEL_URL with the model of
REEF_AGENT_MODEL (`provider/model`) into each agent's `models.json` and leaves all else there as it
is. The key is named, not written: agents take it from OPENAI_API_KEY in their environment, if the
fleet has one.
Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

KEY = "OPENAI_API_KEY"
# Agents use a model only if they have something to show; an endpoint without keys does not look.
NO_KEY = "none"


def main(argv: list[str]) -> int:
    """1 with a sentence if it cannot be."""
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
    """Put the provider into this `models.json`. Raise ValueError if that file is none."""
    found: Any = json.loads(file.read_text()) if file.exists() else {}
    if not isinstance(found, dict) or not isinstance(found.get("providers", {}), dict):
        raise ValueError("it has no object 'providers'")
    found["providers"] = {**found.get("providers", {}), provider: entry(model, url)}
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(found, indent=1) + "\n")
    fresh.replace(file)


def entry(model: str, url: str) -> dict[str, Any]:
    """One provider with one model; what it costs is not known."""
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
    """To whoever watches the boot."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
