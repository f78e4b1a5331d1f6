"""Agents on machines that an older server has started, as their relays tell of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lieutenants.supervision.transports.ssh.answers import text_of

ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


@dataclass(frozen=True)
class OlderAgent:
    """See `relay.older`."""

    pid: int
    started: int
    # Where its FIFO and files are.
    folder: str
    workspace: str
    # Id of the lieutenant that has taken it over; empty if none has.
    owner: str = ""
    # Variables of its own that say what it is.
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def handle(self) -> dict[str, Any]:
        """Return what identifies its process, as in the handle of a keeper."""
        return {"agent_pid": self.pid, "agent_started": self.started}


def parse_older(older: Any) -> OlderAgent | None:
    """Return the agent of an answer. Raises KeyError, TypeError, ValueError if it is damaged."""
    if older is None:
        return None
    if type(older["pid"]) is not int or type(older["started"]) is not int:
        raise ValueError("an agent without numbers")
    owner = text_of(older.get("owner") or "")
    return OlderAgent(
        pid=older["pid"],
        started=older["started"],
        folder=text_of(older["folder"]),
        workspace=text_of(older.get("workspace") or ""),
        owner=owner if ID.fullmatch(owner) else "",
        env={str(name): text_of(value) for name, value in dict(older["env"]).items()},
    )
