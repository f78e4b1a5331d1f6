"""Audit records of requests that the edge refuses without Django, written once a second.

The edge calls `note` for each refusal, which only counts it in memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial
from typing import NamedTuple

from django.urls import Resolver404, resolve
from django.utils import timezone

from reef_site.audit import refusals
from reef_site.audit.models import Action, ActorKind, Record
from reef_site.audit.routes import readable
from reef_site.common.text import escape_unprintable
from reef_site.edge.revocation import QueryThread

logger = logging.getLogger("reef.audit")

WRITE_SECONDS = 1.0
# Beyond this many distinct refusals within a second, paths are left out.
MAX_DIFFERENT = 1000


class Refused(NamedTuple):
    """Key of refusals that are counted together."""

    address: str
    method: str
    path: str
    status: int
    reason: str


class EdgeRefusals:
    """Counter of refusals with a background task that records them; lives on the edge's loop."""

    def __init__(self) -> None:
        self._counts: Counter[Refused] = Counter()
        self._reader = QueryThread("reef-audit")
        self._writing = asyncio.get_running_loop().create_task(self._write_often())

    def note(self, address: str, method: str, path: str, status: int, reason: str) -> None:
        """Count a refusal."""
        refused = Refused(address, method, path, status, reason)
        if refused not in self._counts and len(self._counts) >= MAX_DIFFERENT:
            refused = refused._replace(path="")
        self._counts[refused] += 1

    async def close(self) -> None:
        """Record what was counted, and stop."""
        self._writing.cancel()
        await self._write()
        self._reader.close()

    async def _write_often(self) -> None:
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self._write()

    async def _write(self) -> None:
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            await self._reader.read(partial(record, counts))
        except Exception:
            # The loop must survive any error, so that later refusals are recorded.
            logger.exception("Cannot record %d refusals", counts.total())


def record(counts: Counter[Refused]) -> None:
    """Write each refusal as a row with its count, or add it to the row of this minute."""
    now = timezone.now()
    for refused, count in counts.items():
        route, target = _route(refused.path)
        refusals.add(
            Record(
                at=now,
                last_at=now,
                count=count,
                action=Action.REFUSED,
                actor="",
                actor_kind=ActorKind.NOBODY,
                address=refused.address[:45],
                method=refused.method[:10],
                route=route,
                target=target,
                status=refused.status,
                reason=escape_unprintable(refused.reason, 300),
            )
        )
    refusals.write()


def _route(path: str) -> tuple[str, str]:
    """Return the route of this path, and its target: the values in the path."""
    try:
        match = resolve(path)
    except Resolver404:
        return "", ""
    except Exception:
        # One malformed path must not lose the records of all others.
        logger.exception("Cannot resolve the path of a refusal")
        return "", ""
    target = " ".join(str(value) for name, value in match.kwargs.items() if name != "secret")
    return escape_unprintable(readable(match.route), 200), escape_unprintable(target, 300)
