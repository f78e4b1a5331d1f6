"""The registry's busiest routes as raw ASGI: beats, bulk beats, one VM, discover, ancestors.

The edge asks here first. What is answered is what the DRF routes of `registry.api` would answer,
written with the same functions; whatever is unclear (a session, an odd host, a caller that the
rule may refuse) is left to them: None, and the edge passes the request on.

Beats wait for each other for the moment that a commit takes and are then written together, by one
thread with one connection; each is answered after its commit. Tokens are looked up in the same
transaction, so one that was revoked opens nothing from the next request on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson
from django.conf import settings
from django.db import transaction
from django.http.request import split_domain_port, validate_host

from reef_site.common import clock, events
from reef_site.common.asgi import Answer
from reef_site.common.errors import BadInput
from registry import beats, rows, services, sql
from registry.beats import Beat, Outcome
from registry.checkpoints import Checkpoints
from registry.groups import Group
from vmtree import aliases, ids, tokens
from vmtree.models import Node

logger = logging.getLogger(__name__)

SIGN_SECONDS = 5.0
BAD_TOKEN = "Unauthorized — invalid token"  # noqa: S105
_ALIAS = f'"{ids.LOCAL}'.encode()
_ID = rb"/registry/vms/([^/]+)"
ROUTES: tuple[tuple[str, str, re.Pattern[bytes]], ...] = (
    ("POST", "beat", re.compile(_ID + rb"/heartbeat/?")),
    ("POST", "bulk", re.compile(rb"/registry/heartbeats/?")),
    ("GET", "vm", re.compile(_ID + rb"/?")),
    ("GET", "discover", re.compile(rb"/registry/discover/([^/]+)/?")),
    ("GET", "ancestors", re.compile(_ID + rb"/ancestors/?")),
)


@dataclass(frozen=True, slots=True)
class Writing:
    """Beats that one request brings, and by whose token: a hash, or None for the root token."""

    digest: str | None
    beats: Sequence[Beat]
    single: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What one request wants to see, and by whose token."""

    digest: str | None
    what: str
    key: str


def _route_of(method: str, path: bytes) -> tuple[str, str] | None:
    """Which of the hot routes this is, and the id or role in it; None for all others."""
    if not path.startswith(b"/registry/"):
        return None
    for wanted, name, pattern in ROUTES:
        if method == wanted and (found := pattern.fullmatch(path)):
            return _named(name, found[1]) if found.groups() else (name, "")
    return None


def _named(name: str, raw: bytes) -> tuple[str, str] | None:
    with contextlib.suppress(UnicodeDecodeError):
        key = unquote_to_bytes(raw).decode()
        # Other names of VMs are left to the doors that look them up.
        if "/" not in key and key.isprintable() and not aliases.is_alias(key):
            return name, key
    return None


class HotRoutes:
    """Lives as long as the edge; `answer` is called on its loop."""

    def __init__(self) -> None:
        self._teller = Teller()
        self._writer: Group[Writing | None, Answer | None]
        self._writer = Group("reef-beats", partial(write, self._teller.tell))
        self._reader: Group[Reading, Answer | None] = Group("reef-looks", read)
        self._checkpoints = Checkpoints()
        self._signing = asyncio.get_running_loop().create_task(self._sign())

    @staticmethod
    def route(scope: Mapping[str, Any]) -> tuple[str, str] | None:
        """Which of the hot routes this request is for, and the id or role in it.

        None of them takes a query; what has one is refused in words elsewhere.
        """
        if scope.get("query_string"):
            return None
        return _route_of(scope["method"], scope.get("raw_path") or b"")

    @staticmethod
    def refusal(headers: Mapping[bytes, bytes]) -> Answer | None:
        """The refusal of a token that opens nothing; None to have the request passed on."""
        return refused() if b"authorization" in headers and _is_our_host(headers) else None

    async def close(self) -> None:
        """Let what waits commit, and end the threads."""
        self._signing.cancel()
        self._checkpoints.close()
        for group in (self._writer, self._reader):
            await group.close()
        self._teller.close()

    async def answer(
        self, route: tuple[str, str], headers: Mapping[bytes, bytes], body: bytes
    ) -> Answer | None:
        """The answer, or None to have the request passed on."""
        asked = question(route, headers, body)
        if isinstance(asked, Reading):
            return await self._reader.ask(asked)
        if isinstance(asked, Writing):
            return await self._writer.ask(asked)
        return asked

    def begin(
        self,
        route: tuple[str, str],
        headers: Mapping[bytes, bytes],
        tell: Callable[[Answer | None], None],
    ) -> bool:
        """The same for a request without a body, told when it is there; False if it is unclear."""
        asked = question(route, headers, b"")
        if isinstance(asked, Reading):
            self._reader.put(asked, tell)
        elif isinstance(asked, Writing):
            self._writer.put(asked, tell)
        else:
            return False
        return True

    async def _sign(self) -> None:
        """Say every few seconds that beats can come in here."""
        while True:
            try:
                await self._writer.ask(None)
            except Exception:
                logger.exception("a sign of life cannot be written")
            await asyncio.sleep(SIGN_SECONDS)


def question(
    route: tuple[str, str], headers: Mapping[bytes, bytes], body: bytes
) -> Reading | Writing | Answer | None:
    """What is asked; or the refusal of a token that needs no look; or None to pass it on."""
    name, key = route
    if b"authorization" not in headers or not _is_our_host(headers):
        return None
    good, digest = credentials(headers[b"authorization"])
    if not good:
        return refused()
    if name in LOOKS:
        return Reading(digest, name, key)
    try:
        if name == "bulk" and _ALIAS in body:
            return None
        said = [beats.single(key, body)] if name == "beat" else beats.bulk(orjson.loads(body))
    except (BadInput, orjson.JSONDecodeError):
        # Said in the words of the door that knows whether the token is good at all.
        return None
    return Writing(digest, said, name == "beat")


# -- who asks ----------------------------------------------------------------------------------


def credentials(header: bytes) -> tuple[bool, str | None]:
    """Whether this may be a good token, and the hash to look up; the root token has none."""
    scheme, _, token = header.decode("latin-1").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer":
        return False, None
    if hmac.compare_digest(token.encode("utf-8", "replace"), _root_token()):
        return True, None
    return token.startswith(tokens.PREFIX), tokens.digest_of(token)


@functools.cache
def _root_token() -> bytes:
    """Settings do not change, and asking them takes long."""
    return settings.ROOT_TOKEN.encode()


def _is_our_host(headers: Mapping[bytes, bytes]) -> bool:
    host = headers.get(b"host", b"").decode("latin-1")
    if host not in _good_hosts:
        domain, _ = split_domain_port(host)
        if not domain or not validate_host(domain, settings.ALLOWED_HOSTS):
            return False
        if len(_good_hosts) < 100:
            _good_hosts.add(host)
    return True


_good_hosts: set[str] = set()


class Holder(NamedTuple):
    """The node that a token belongs to: its key and its VM's id."""

    pk: int
    vm_id: str


def holders_of(digests: set[str]) -> dict[str, Holder]:
    """The living nodes that these tokens belong to, in one look; run inside a group."""
    if not digests:
        return {}
    inside, parameter = sql.members(digests)
    living = (
        "FROM vmtree_nodetoken t JOIN vmtree_node n ON n.id = t.node_id"
        f" WHERE t.digest IN {inside} AND t.revoked_at IS NULL AND n.removed_at IS NULL"
    )
    rows = sql.look("t.digest, n.id, n.vm_id", living, [parameter])
    return {digest: Holder(pk, vm_id) for digest, pk, vm_id in rows}


# -- what the groups do ------------------------------------------------------------------------


class Verdict(Enum):
    """Whether a request may be answered here."""

    GOOD = auto()
    REFUSED = auto()
    UNSURE = auto()


def write(tell: Callable[[set[str]], None], asked: Sequence[Writing | None]) -> list[Answer | None]:
    """Write the beats of many requests in one transaction; an answer for each, in their order.

    None among them is the sign that this edge is there.
    """
    now, writings = clock.now(), [each for each in asked if each is not None]
    with transaction.atomic():
        if len(writings) < len(asked):
            services.door_open(now)
        holders = holders_of({each.digest for each in writings if each.digest is not None})
        verdicts = [_verdict(each, holders) for each in asked]
        said: list[Beat] = []
        for each, verdict in zip(asked, verdicts, strict=True):
            if each and verdict is Verdict.GOOD:
                said.extend(each.beats)
        interval = beats.fleet.interval_ms()
        done = beats.record(said, now, interval) if said else Outcome()
    if done.changed:
        tell(done.changed)
    round_ = Round(done, now, interval)
    return [round_.answer(each, verdict) for each, verdict in zip(asked, verdicts, strict=True)]


def _verdict(asked: Writing | None, holders: Mapping[str, Holder]) -> Verdict:
    if asked is None or asked.digest is None:
        return Verdict.GOOD
    holder = holders.get(asked.digest)
    if holder is None:
        return Verdict.REFUSED
    if asked.single and asked.beats[0].vm_id == holder.vm_id:
        return Verdict.GOOD
    node = Node(pk=holder.pk, vm_id=holder.vm_id)
    clear = services.may_beat(node, [each.vm_id for each in asked.beats])
    return Verdict.GOOD if clear else Verdict.UNSURE


@dataclass(frozen=True, slots=True)
class Round:
    """What one transaction of beats came to."""

    done: Outcome
    now: datetime
    interval: int

    def answer(self, asked: Writing | None, verdict: Verdict) -> Answer | None:
        """What the asker of these beats is told; None is passed on."""
        if asked is None or verdict is Verdict.UNSURE:
            return None
        if verdict is Verdict.REFUSED:
            return refused()
        if not asked.single:
            told = beats.bulk_answer(asked.beats, self.done, self.now, self.interval)
            return Answer(200, orjson.dumps(told))
        vm_id = asked.beats[0].vm_id
        if vm_id not in self.done.seen:
            return _not_found()
        return Answer(200, orjson.dumps(beats.single_answer(vm_id, self.done, self.interval)))


def read(asked: Sequence[Reading]) -> list[Answer | None]:
    """Answer many questions at one moment; the same question is looked up once."""
    holders = holders_of({each.digest for each in asked if each.digest is not None})
    good = [each for each in asked if each.digest is None or each.digest in holders]
    known = {(what, key): answer for what in LOOKS for key, answer in _looks(good, what)}
    return [
        known[each.what, each.key] if each.digest is None or each.digest in holders else refused()
        for each in asked
    ]


LOOKS = ("vm", "discover", "ancestors")


def _looks(asked: Sequence[Reading], what: str) -> Iterable[tuple[str, Answer]]:
    """The answers to all questions of one kind, each looked up once."""
    keys = {each.key for each in asked if each.what == what}
    view = rows.View() if keys else None
    if view is None:
        return
    if what == "vm":
        found = view.vms(keys)
        for key in keys:
            yield key, Answer(200, orjson.dumps(found[key])) if key in found else _not_found()
    elif what == "ancestors":
        lines = view.ancestors(keys)
        for key in keys:
            yield key, _counted(what, lines[key]) if key in lines else _not_found()
    else:
        for key in keys:
            yield key, _counted("vms", view.discover(key))


# -- answers -----------------------------------------------------------------------------------


def _counted(name: str, found: list[Any]) -> Answer:
    return Answer(200, orjson.dumps({name: found, "count": len(found)}))


def _not_found() -> Answer:
    return Answer(404, orjson.dumps({"error": services.VM_NOT_FOUND}))


def refused() -> Answer:
    """The token opens nothing."""
    return Answer(401, orjson.dumps({"error": BAD_TOKEN}))


class Teller:
    """Tells watchers in a thread of its own: a Redis that hangs holds up no beat."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reef-tells")

    def tell(self, vm_ids: set[str]) -> None:
        """Have them told soon, with all that come until then."""
        with self._lock:
            waiting = bool(self._ids)
            self._ids |= vm_ids
        if not waiting:
            self._thread.submit(self._send)

    def close(self) -> None:
        """Tell nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _send(self) -> None:
        with self._lock:
            ids, self._ids = self._ids, set()
        try:
            events.publish_nodes(sorted(ids))
        except Exception:
            # Nobody asks the executor what became of it.
            logger.exception("watchers cannot be told of %d VMs", len(ids))
