"""What every template may use of the site: `reef.version`, `.demo`, `.emulated`, `.organs`, …"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import HttpRequest

from lieutenants import agents
from lieutenants.isolation import modes

_LOOK_SECONDS = 10.0


def _fingerprint() -> str:
    """Changes whenever a style or a script of ours does, so that no browser mixes old and new."""
    files = sorted((settings.BASE_DIR / "reef_site" / "static" / "reef").rglob("*.[cj]s*"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


_assets = _fingerprint()


@dataclass
class _Known:
    """When the host was last looked at for an agent, and what was missing."""

    problem: str = ""
    looked_at: float = -_LOOK_SECONDS


_known = _Known()


def agent_problem() -> str:
    """Why no lieutenant can start here; empty when one can. At most ten seconds old."""
    if time.monotonic() - _known.looked_at >= _LOOK_SECONDS:
        _known.problem, _known.looked_at = agents.agent_problem(), time.monotonic()
    return _known.problem


def forget() -> None:
    """Look again at the next question."""
    _known.looked_at = -_LOOK_SECONDS


def site(_request: HttpRequest) -> dict[str, Any]:
    """Facts about the site. The agent is looked for only by templates that ask for it."""
    return {
        "reef": {
            "version": settings.VERSION,
            "assets": _assets,
            "demo": settings.DEMO,
            "emulated": settings.EMULATED_VMS,
            "organs": settings.ORGANS,
            "agent_problem": agent_problem,
            "isolation_warning": modes.warning,
            # Browsers' clocks go wrong: ages are counted from the server's.
            "now": time.time_ns() // 1_000_000,
        }
    }
