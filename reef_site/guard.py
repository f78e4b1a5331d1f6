"""Open streams end soon after what opened them is no longer good.

That is a node's token, or the session of a person. The rows are read, not the news: they are true
also while Redis is down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
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
    # The account as the first look found it.
    account: SignedIn | None = None

    def is_good(self, tokens: set[str], accounts: dict[str, SignedIn]) -> bool:
        """Return whether it would still open this stream."""
        if self.digest:
            return self.digest in tokens
        now = accounts.get(self.session)
        if now is None:
            return False
        first = self.account = self.account or now
        demoted = now.is_superuser < first.is_superuser or now.is_staff < first.is_staff
        return now.user_id == first.user_id and not demoted


def opened_with(authorization: bytes, cookies: bytes) -> Opened:
    """Return what these headers open a stream with; a token goes before a session."""
    if authorization:
        return Opened(digest=credentials(authorization)[1] or "")
    session_id = parse_cookie(cookies.decode("latin-1")).get(settings.SESSION_COOKIE_NAME)
    return Opened(session=row_key(session_id)) if session_id else Opened()


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

    async def until_revoked(self, authorization: bytes, cookies: bytes) -> None:
        """Wait until these headers open nothing any more; of the root token, for ever."""
        opened, ended = opened_with(authorization, cookies), asyncio.Event()
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
            digests = {each.digest for each in checked.values() if each.digest}
            sessions = {each.session for each in checked.values() if each.session}
            try:
                tokens = set(await self._reader.read(partial(holders_of, digests)))
                accounts = await self._reader.read(partial(signed_in, sessions))
            except DatabaseError:
                logger.exception("Cannot read which tokens and sessions are good; trying again")
                continue
            for ended, opened in checked.items():
                if not opened.is_good(tokens, accounts):
                    ended.set()
