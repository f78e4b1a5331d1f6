"""Build commands of the agent's RPC mode, and read parts of its messages."""

from __future__ import annotations

from typing import Any

from lieutenants.agents.base import Command, Outgoing

# An abort during a tool call arrives as an error with one of these texts.
ABORTS = frozenset({"this operation was aborted", "request was aborted", "operation aborted"})
# Dialogs of an extension that wait for a reply; the other methods only inform.
DIALOGS = frozenset({"select", "confirm", "input", "editor"})

# A prompt's disposition: handled by a command, in the agent's queue, or begun. From 0.99.0 on.
HANDLED = "handled"
DISPOSITIONS = frozenset({HANDLED, "queued", "started"})


def prompt(message_id: str, text: str, *, steer: bool) -> Outgoing:
    """Build a message command.

    The agent's own `steer` and `follow_up` are never used: an idle agent loses those.
    """
    behaviour = "steer" if steer else "followUp"
    line = {"id": message_id, "type": "prompt", "message": text, "streamingBehavior": behaviour}
    return Outgoing(message_id, line)


def simple(kind: str, command_id: str) -> Outgoing:
    """Build a command without arguments: `get_state`, `abort`, `clear_queue`."""
    return Outgoing(command_id, {"id": command_id, "type": kind})


def dismiss(request_id: str) -> Outgoing:
    """Build the reply that dismisses a dialog."""
    line = {"type": "extension_ui_response", "id": request_id, "cancelled": True}
    return Outgoing(f"~ui-{request_id}", line)


def disposition_of(response: Command) -> str:
    """Return what the agent did with a prompt, see DISPOSITIONS; empty if it does not tell."""
    data = response.get("data")
    found = data.get("disposition") if isinstance(data, dict) else None
    return found if isinstance(found, str) and found in DISPOSITIONS else ""


def text_of(content: Any) -> str:
    """Join the text blocks of a message's content."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [each.get("text") for each in content if isinstance(each, dict)]
    return "".join(part for part in parts if isinstance(part, str))


def is_abort(failure: Any) -> bool:
    """Return whether a failure is only the agent's own abort, by its text."""
    return isinstance(failure, str) and failure.strip(" .").lower() in ABORTS


def count_images(content: Any) -> int:
    """Return the number of images in a message's content."""
    if not isinstance(content, list):
        return 0
    return sum(1 for each in content if isinstance(each, dict) and each.get("type") == "image")
