"""Build commands of the agent's RPC mode."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from lieutenants.agents.base import DIALOG_REPLY, Image, Outgoing


def prompt(message_id: str, text: str, *, steer: bool, images: Sequence[Image] = ()) -> Outgoing:
    """Build a message command.

    The agent's own `steer` and `follow_up` are never used: an idle agent loses those.
    """
    behaviour = "steer" if steer else "followUp"
    line: dict[str, Any] = {
        "id": message_id,
        "type": "prompt",
        "message": text,
        "streamingBehavior": behaviour,
    }
    if images:
        line["images"] = [_content(image) for image in images]
    return Outgoing(message_id, line)


def _content(image: Image) -> dict[str, str]:
    data = base64.b64encode(image.data).decode("ascii")
    return {"type": "image", "data": data, "mimeType": image.media_type}


def simple(kind: str, command_id: str) -> Outgoing:
    """Build a command without arguments: `get_state`, `abort`, `clear_queue`."""
    return Outgoing(command_id, {"id": command_id, "type": kind})


def dismiss(request_id: str) -> Outgoing:
    """Build the reply that dismisses a dialog."""
    line = {"type": "extension_ui_response", "id": request_id, "cancelled": True}
    return Outgoing(f"{DIALOG_REPLY}{request_id}", line)


def answer_dialog(request_id: str, answer: str | bool) -> Outgoing:
    """Build the reply to a dialog: true or false for `confirm`, else text."""
    name = "confirmed" if isinstance(answer, bool) else "value"
    line = {"type": "extension_ui_response", "id": request_id, name: answer}
    return Outgoing(f"{DIALOG_REPLY}{request_id}", line)
