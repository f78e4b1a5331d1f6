"""Revocation: end open streams soon after their caller's access has ended.

The token or the session must still be valid, and the caller must still be allowed to read the
transcript: the lieutenant may have been moved elsewhere in the tree. The rows are polled, because
events are lost while Redis is down.
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
from reef_site.api.authentication import Caller
from registry.bearer_tokens import owners_of, parse_credentials
from vmtree import operator_tokens, permissions
from vmtree.models import Node
from vmtree.permissions import Action

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.4

Result = TypeVar("Result")


class QueryThread:
    """A thread with its own database connection that runs queries one after the other."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def close(self) -> None:
        """Stop the thread; queued queries are cancelled."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def read(self, query: Callable[[], Result]) -> Result:
        """Run a query in the thread; retry once if the connection was lost."""

        def run() -> Result:
            try:
                return query()
            except DatabaseError:
                close_old_connections()
                return query()

        return await asyncio.get_running_loop().run_in_executor(self._executor, run)


@dataclass
class StreamCredentials:
    """Credentials of one stream: token or session; neither for the root token."""

    digest: str = ""
    session: str = ""
    # Owner of the transcript; empty for the listing.
    vm_id: str = ""
    # The account as the first check found it.
    account: SignedIn | None = None

    @property
    def key(self) -> str:
        """Return what tells this caller from others; empty for the root token."""
        return self.digest or self.session

    def is_good(self, found: CredentialState) -> bool:
        """Return whether these credentials would still open this stream."""
        if self.digest:
            return (self.digest, self.vm_id) in found.readable
        accounts = found.accounts
        now = accounts.get(self.session)
        if now is None:
            return False
        first_seen = self.account = self.account or now
        demoted = now.is_superuser < first_seen.is_superuser or now.is_staff < first_seen.is_staff
        return now.user_id == first_seen.user_id and not demoted


@dataclass(frozen=True)
class CredentialState:
    """State of the credentials of all open streams in the database."""

    # Pairs of the digest of a valid token and the VM id of a transcript that its holder may read.
    readable: set[tuple[str, str]]
    accounts: dict[str, SignedIn]


def opened_with(authorization: bytes, cookies: bytes, vm_id: str = "") -> StreamCredentials:
    """Return the credentials in these headers; a token takes precedence over a session."""
    if authorization:
        return StreamCredentials(digest=parse_credentials(authorization)[1] or "", vm_id=vm_id)
    session_id = parse_cookie(cookies.decode("latin-1")).get(settings.SESSION_COOKIE_NAME)
    return StreamCredentials(session=row_key(session_id)) if session_id else StreamCredentials()


def look_up(streams: Iterable[StreamCredentials]) -> CredentialState:
    """Read the state of the credentials of these streams; runs in a thread."""
    wanted = {(each.digest, each.vm_id) for each in streams if each.digest}
    callers = _callers_of({digest for digest, _ in wanted})
    readable = {
        (digest, vm_id)
        for digest, vm_id in wanted
        if digest in callers and _may_read(callers[digest], vm_id)
    }
    return CredentialState(readable, signed_in({each.session for each in streams if each.session}))


def _callers_of(digests: set[str]) -> dict[str, Caller]:
    """Map the hashes of valid tokens to their holders."""
    owners = owners_of(digests)
    nodes = Node.objects.in_bulk({owner.pk for owner in owners.values()})
    callers = {
        digest: Caller(f"node {owner.vm_id}", nodes[owner.pk])
        for digest, owner in owners.items()
        if owner.pk in nodes
    }
    if unknown := digests - owners.keys():
        for digest, row in operator_tokens.good_ones(unknown).items():
            callers[digest] = Caller(str(row), operator_token=row)
    return callers


def _may_read(caller: Caller, vm_id: str) -> bool:
    """Return whether the caller may read the transcript; everyone may read the listing."""
    return not vm_id or permissions.may(caller, Action.READ_TRANSCRIPT, vm_id)


class Guard:
    """Periodic check of the credentials of open streams.

    It has a thread of its own: a long query for a transcript must not delay the end of a stream.
    """

    def __init__(self) -> None:
        self._reader = QueryThread("reef-guard")
        self._open: dict[asyncio.Event, StreamCredentials] = {}
        self._checking: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Stop checking."""
        if self._checking:
            self._checking.cancel()
        self._reader.close()

    @staticmethod
    def key_of(authorization: bytes, cookies: bytes) -> str:
        """Return what tells the caller with these headers from others; empty for the root token."""
        return opened_with(authorization, cookies).key

    async def until_revoked(self, authorization: bytes, cookies: bytes, vm_id: str = "") -> None:
        """Wait until these headers no longer give access; for the root token, for ever."""
        opened, ended = opened_with(authorization, cookies, vm_id), asyncio.Event()
        if opened.digest or opened.session:
            self._open[ended] = opened
            if self._checking is None or self._checking.done():
                self._checking = asyncio.create_task(self._check_loop())
        try:
            await ended.wait()
        finally:
            self._open.pop(ended, None)

    async def _check_loop(self) -> None:
        while self._open:
            await asyncio.sleep(INTERVAL_SECONDS)
            checked = dict(self._open)
            try:
                found = await self._reader.read(partial(look_up, list(checked.values())))
                revoked = [ended for ended, opened in checked.items() if not opened.is_good(found)]
            except Exception:
                # The loop must survive any error, or no stream would end any more.
                logger.exception("Cannot check the callers of open streams; trying again")
                continue
            for ended in revoked:
                ended.set()
