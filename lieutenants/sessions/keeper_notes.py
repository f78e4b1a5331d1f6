"""Journal records of the keeper itself, as inputs. Modules of `supervision.keeper` write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lieutenants.agents.base import DIALOG_REPLY
from lieutenants.agents.payloads import parse_count
from lieutenants.sessions import inputs
from lieutenants.sessions.inputs import Request

Cover = Callable[[Any], Any]


def decode(record: list[Any], cover: Cover) -> Request | None:
    """Return the input for a record, with secrets covered; None for an unknown kind."""
    decoder = _DECODERS.get(record[0])
    return decoder(record, cover) if decoder else None


def _end(record: list[Any], cover: Cover) -> Request:
    facts = cover(record[2]) if isinstance(record[2], dict) else {}
    lines, code, signal = facts.get("stderr"), facts.get("code"), facts.get("signal")
    return inputs.ProcessEnded(
        code=code if isinstance(code, int) else None,
        signal=signal if isinstance(signal, int) else None,
        stderr="\n".join(map(str, lines)) if isinstance(lines, list) else "",
        error=str(facts.get("error") or ""),
        stopped=bool(facts.get("stopped")),
        killed_for_memory=facts.get("killed_for_memory") is True,
    )


def _omitted(record: list[Any], cover: Cover) -> Request:
    count, size = parse_count(record[3]), parse_count(record[4])
    return inputs.Omitted(cover(str(record[2])), count, size)


_DECODERS: dict[str, Callable[[list[Any], Cover], Request]] = {
    "x": _end,
    "g": lambda record, cover: inputs.Garbage(cover(str(record[2]))),
    "l": lambda record, _: inputs.LongLine(str(record[3])),
    "m": _omitted,
    "gap": lambda record, _: inputs.OutputLost(parse_count(record[2])),
    "q": lambda record, cover: inputs.FloodOver(cover(str(record[2]))),
    "w": lambda record, cover: inputs.Warned(cover(str(record[2]))),
}


def is_own_command(record: list[Any]) -> bool:
    """Return whether the record only confirms a command of the follower.

    A reply to a dialog is the command of a person, and the agent's silence begins after it.
    """
    command = str(record[2]) if record[0] == "s" else ""
    return command.startswith("~") and not command.startswith(DIALOG_REPLY)


def is_no_activity(record: list[Any]) -> bool:
    """Return whether the record is about a command of the follower: no activity of the agent."""
    payload = record[2] if record[0] == "e" else None
    is_reply = isinstance(payload, dict) and str(payload.get("id") or "").startswith("~")
    return is_reply or is_own_command(record)
