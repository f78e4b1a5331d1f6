"""Open streams end soon after their caller may no longer follow them.

The token of a node or the session of a person must still be good, and a node must still have the
right to read the transcript: its lieutenant may have been moved elsewhere. The rows are read, not
the news: they are true also while Redis is down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import close_old_connections
from django.http import parse_cookie

from reef_site.accounts.sessions import SignedIn, row_key, signed_in
from registry.hotpath import credentials, holders_of
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action

logger = logging.getLogger(__name__)

EVERY_SECONDS = 0.4

Result = TypeVar("Result")


class Reader:
    """One thread that runs queries, one after the other, with its own database connection."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def close(self) -> None:
        """Run no further query."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def read(self, query: Callable[[], Result]) -> Result:
        """Run a query in the thread, once more if the connection was gone."""

        def run() -> Result:
            try:
                return query()
            except DatabaseError:
                close_old_connections()
                return query()

        return await asyncio.get_running_loop().run_in_executor(self._executor, run)


@dataclass
class Opened:
    """What one stream was opened with; the root token has neither."""

    digest: str = ""
    session: str = ""
    # Whose transcript it is; empty for the listing.
    vm_id: str = ""
    # The account as the first look found it.
    account: SignedIn | None = None

    def is_good(self, found: Found) -> bool:
        """Return whether it would still open this stream."""
        if self.digest:
            return (self.digest, self.vm_id) in found.readable
        accounts = found.accounts
        now = accounts.get(self.session)
        if now is None:
            return False
        first = self.account = self.account or now
        demoted = now.is_superuser < first.is_superuser or now.is_staff < first.is_staff
        return now.user_id == first.user_id and not demoted


@dataclass(frozen=True)
class Found:
    """What the rows say about the open streams."""

    # Digests of good tokens, each with a transcript that its node may read.
    readable: set[tuple[str, str]]
    accounts: dict[str, SignedIn]


def opened_with(authorization: bytes, cookies: bytes, vm_id: str = "") -> Opened:
    """Return what these headers open a stream with; a token goes before a session."""
    if authorization:
        return Opened(digest=credentials(authorization)[1] or "", vm_id=vm_id)
    session_id = parse_cookie(cookies.decode("latin-1")).get(settings.SESSION_COOKIE_NAME)
    return Opened(session=row_key(session_id)) if session_id else Opened()


def look_up(streams: Iterable[Opened]) -> Found:
    """Read what the rows say about these streams; run in a thread."""
    wanted = {(each.digest, each.vm_id) for each in streams if each.digest}
    holders = holders_of({digest for digest, _ in wanted})
    nodes = Node.objects.in_bulk({holder.pk for holder in holders.values()})
    readable = {
        (digest, vm_id)
        for digest, vm_id in wanted
        if digest in holders and _may_follow(nodes.get(holders[digest].pk), vm_id)
    }
    return Found(readable, signed_in({each.session for each in streams if each.session}))


def _may_follow(node: Node | None, vm_id: str) -> bool:
    """Return whether this node may read the transcript; every living node may hear the listing."""
    if node is None or not vm_id:
        return node is not None
    return permissions.allows(node, Action.READ_TRANSCRIPT, vm_id)


class Guard:
    """Checks, while there are streams, whether what opened them is still good.

    It has a thread of its own: a long read for a transcript must not delay the end of a stream.
    """

    def __init__(self) -> None:
        self._reader = Reader("reef-guard")
        self._open: dict[asyncio.Event, Opened] = {}
        self._looking: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Stop checking."""
        if self._looking:
            self._looking.cancel()
        self._reader.close()

    async def until_revoked(self, authorization: bytes, cookies: bytes, vm_id: str = "") -> None:
        """Wait until these headers no longer open this stream; of the root token, for ever."""
        opened, ended = opened_with(authorization, cookies, vm_id), asyncio.Event()
        if opened.digest or opened.session:
            self._open[ended] = opened
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
        try:
            await ended.wait()
        finally:
            self._open.pop(ended, None)

    async def _look(self) -> None:
        while self._open:
            await asyncio.sleep(EVERY_SECONDS)
            checked = dict(self._open)
            try:
                found = await self._reader.read(partial(look_up, list(checked.values())))
                bad = [ended for ended, opened in checked.items() if not opened.is_good(found)]
            except Exception:
                # Whatever it is: if this loop ended, no stream would end any more.
                logger.exception("Cannot check the callers of open streams; trying again")
                continue
            for ended in bad:
                ended.set()
