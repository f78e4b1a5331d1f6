"""The plan of `up`: which processes the supervisor runs. Standard library only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from reef_site.hardening import UMASK


@dataclass(frozen=True)
class Service:
    """A process to keep running. `stale` are files to remove before each start."""

    name: str
    argv: list[str]
    stale: list[str] = field(default_factory=list)
    # "first" starts before the rest and stops after it; "late" starts when the pages respond.
    start_phase: str = ""
    # Run to its end and do not restart.
    once: bool = False
    # Lines that contain one of these texts go to the log only.
    muted: list[str] = field(default_factory=list)
    # Less strict for programs whose files others must be able to read.
    umask: int = UMASK
    # False: only PLAIN_VARIABLES, without settings and keys.
    full_environment: bool = True


@dataclass(frozen=True)
class Demo:
    """The demo model: it holds `lock` while it runs, and outlives us while agents use it."""

    argv: list[str]
    lock: str


@dataclass(frozen=True)
class Plan:
    """Processes to run, and lines to print once they respond. `health` is (host, port)."""

    services: list[Service]
    logs: str
    health: tuple[str, int]
    ready: list[str]
    tag: str
    link: str = ""
    open_browser: bool = False
    demo: Demo | None = None
    forget: list[str] = field(default_factory=list)

    def dump(self) -> str:
        """Return the plan as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Plan:
        """Return the plan from the JSON of `dump`."""
        facts: dict[str, Any] = json.loads(text)
        facts["services"] = [Service(**one) for one in facts["services"]]
        facts["health"] = tuple(facts["health"])
        facts["demo"] = Demo(**facts["demo"]) if facts["demo"] else None
        return cls(**facts)
