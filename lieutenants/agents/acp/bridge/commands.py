"""Commands of reef: JSON lines with a `type` and an `id`.

`prompt` (`message`, `images`), `abort`, `get_state`, `get_available_models`, `get_session_stats`,
and `extension_ui_response` (`value`, or `cancelled`), which answers a dialog.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any


def parse(line: bytes) -> dict[str, Any]:
    """Parse a command; an empty object if it is none."""
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
