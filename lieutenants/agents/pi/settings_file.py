"""Files of pi's configuration, and `settings.json` in a lieutenant's own copy of it."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from django.conf import settings

from lieutenants.exceptions import AgentMisconfigured

NAME = "settings.json"
# Files with keys of model providers.
CREDENTIALS = ("auth.json", "models.json")
ALL = (*CREDENTIALS, NAME)
# The operator's own values win. Warm caches cost money while nothing runs, and nobody is there to
# answer the question whether to trust a project.
DEFAULTS = {"cacheWarming": "off", "defaultProjectTrust": "never"}
# Comments and trailing commas, which the agent accepts; strings, to skip their contents.
_JSON_EXTENSIONS = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/|,(?=\s*[}\]])', re.DOTALL)


def read_json(path: Path) -> Any:
    """Return the JSON in a file of the agent's configuration. Raises OSError, ValueError."""
    return json.loads(_JSON_EXTENSIONS.sub(_keep_strings, path.read_text(encoding="utf-8-sig")))


def check_all() -> None:
    """Raise AgentMisconfigured if one of the files cannot be read: no agent could start."""
    for name in ALL:
        path = settings.AGENT_CONFIG_DIR / name
        try:
            read_json(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise AgentMisconfigured(f"{path} cannot be read: {error}. Correct it first.") from None


def add_defaults(folder: Path) -> None:
    """Write the defaults into `settings.json` where it has no values of its own.

    The file is replaced, never written to, and left alone if it is not a JSON object. Raises
    OSError.
    """
    path, found = folder / NAME, {}
    with contextlib.suppress(FileNotFoundError):
        try:
            found = read_json(path)
        except ValueError:
            return
    if not isinstance(found, dict):
        return
    path.unlink(missing_ok=True)
    path.write_text(json.dumps({**DEFAULTS, **found}, indent=2) + "\n", encoding="utf-8")


def texts(folder: Path) -> dict[str, str]:
    """Return the files that exist by name, `settings.json` with the defaults.

    Raises OSError.
    """
    found = {}
    for name in CREDENTIALS:
        with contextlib.suppress(FileNotFoundError):
            found[name] = (folder / name).read_text(encoding="utf-8")
    own: Any = {}
    with contextlib.suppress(FileNotFoundError):
        own = read_json(folder / NAME)
    merged = {**DEFAULTS, **own} if isinstance(own, dict) else own
    return {**found, NAME: json.dumps(merged, indent=2) + "\n"}


def _keep_strings(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith('"') else ""
