"""The extension that gives reef's tools to a pi without an MCP client: `extension.ts`."""

from __future__ import annotations

import functools
import re
from pathlib import Path

FILE = Path(__file__).parent / "extension.ts"
# Its name in a lieutenant's configuration.
NAME = "reef.ts"
_VERSION = re.compile(r'^export const VERSION = "([^"]+)";$', re.MULTILINE)


@functools.cache
def text() -> str:
    """Return the source; it has no secrets."""
    return FILE.read_text(encoding="utf-8")


@functools.cache
def version() -> str:
    """Return the version that the source names."""
    found = _VERSION.search(text())
    if found is None:
        raise ValueError(f"{FILE} names no version")
    return found[1]


def write(folder: Path) -> None:
    """Write the source into a lieutenant's own folder. Raises OSError."""
    path = folder / NAME
    # Not through a link of the operator's.
    path.unlink(missing_ok=True)
    path.write_text(text(), encoding="utf-8")
