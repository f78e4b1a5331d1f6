"""Objects that all requests of one edge share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from reef_site.edge.open_waits import OpenWaits
from reef_site.edge.request_bodies import Scope, header
from reef_site.edge.request_heads import cookies
from reef_site.edge.web_client import WebClient


class Parts:
    """The web process, the streams and the open waits of an edge."""

    def __init__(self) -> None:
        """Prepare what needs no settings; the edge adds the others at its start."""
        self.web: WebClient = None  # type: ignore[assignment]
        self.streams: Any = None
        self.open_waits = OpenWaits()
        self.ending = asyncio.Event()

    def place(self, scope: Scope) -> contextlib.AbstractContextManager[bool]:
        """Return a place for a wait of this caller; see `OpenWaits.place`."""
        return self.open_waits.place(self.key_of(scope))

    def key_of(self, scope: Scope) -> str:
        """Return what tells the caller from others; empty for the root token."""
        key: str = self.streams.guard.key_of(header(scope, b"authorization"), cookies(scope))
        return key

    async def until_revoked(self, scope: Scope, vm_id: str = "") -> None:
        """Wait until this caller may no longer read what `vm_id` owns; empty for the listing."""
        await self.streams.guard.until_revoked(
            header(scope, b"authorization"), cookies(scope), vm_id
        )

    async def until_ending(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait until this is done, or until the edge is about to stop."""
        working = asyncio.create_task(work)
        ending = asyncio.create_task(self.ending.wait())
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            for task in (working, ending):
                task.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)
