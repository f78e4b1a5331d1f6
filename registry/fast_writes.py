"""Writes that the edge answers itself, many in one transaction; above all heartbeats."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any, NamedTuple

import orjson
from django.db import DatabaseError, transaction

from reef_site.common import clock, events
from reef_site.common.asgi import JSONResponse
from registry import fast_registrations, plain_bodies, services, write_routes
from registry import heartbeats as beats
from registry.bearer_tokens import TokenOwner, unauthorized
from registry.heartbeat_bodies import Heartbeat
from registry.heartbeats import Outcome
from registry.plain_bodies import Creating, Registering
from registry.remembered import Remembered, find_owners
from registry.write_routes import PlainWrite, WriteRoute
from vmtree.models import Node

logger = logging.getLogger(__name__)


class WriteRequest(NamedTuple):
    """Heartbeats of one request, and the hash of its token (None for the root token)."""

    digest: str | None
    beats: Sequence[Heartbeat]
    single: bool


Request = WriteRequest | Registering | Creating | PlainWrite


class Decision(Enum):
    """The decision whether a request may be answered on the fast path."""

    GOOD = auto()
    REFUSED = auto()
    UNSURE = auto()


def write(
    publish: Callable[[set[str]], None],
    requests: Sequence[Request | None],
    remembered: Remembered | None = None,
) -> list[JSONResponse | None]:
    """Write heartbeats in one transaction, registrations in another, then the rest by routes.

    Returns responses in their order. None in `requests` records that this edge is up.
    """
    remembered = remembered or Remembered()
    kinds: dict[object, list[int]] = {}
    for number, request in enumerate(requests):
        kinds.setdefault(_kind_of(request), []).append(number)
    responses: list[JSONResponse | None] = [None] * len(requests)
    for kind in sorted(kinds, key=lambda kind: kind is not WriteRequest):
        some: Any = [requests[number] for number in kinds[kind]]
        if kind is WriteRequest:
            made = _write_heartbeats(publish, some, remembered)
        else:
            made = _write_others(publish, kind, some, remembered)
        for number, response in zip(kinds[kind], made, strict=True):
            responses[number] = response
    return responses


def _kind_of(request: Request | None) -> object:
    """Return what requests have in common that one transaction writes."""
    if isinstance(request, PlainWrite):
        return request.route
    return plain_bodies.Request if isinstance(request, plain_bodies.Request) else WriteRequest


def _write_others(
    publish: Callable[[set[str]], None], kind: object, requests: Any, remembered: Remembered
) -> list[JSONResponse | None]:
    """Write requests of one kind; Django gets them all if the database refuses one."""
    try:
        if isinstance(kind, WriteRoute):
            responses, changed = write_routes.write(kind, requests, remembered)
        else:
            responses, changed = fast_registrations.write(requests, remembered)
    except DatabaseError as error:
        # Another process has created one of the rows, most likely.
        logger.info("%d requests are passed on: %s", len(requests), error)
        return [None] * len(requests)
    if changed:
        publish(changed)
    return responses


def _write_heartbeats(
    publish: Callable[[set[str]], None],
    requests: Sequence[WriteRequest | None],
    remembered: Remembered,
) -> list[JSONResponse | None]:
    """Record the heartbeats of many requests in one transaction; return their responses."""
    now = clock.now()
    with transaction.atomic():
        owners = find_owners((each.digest for each in requests if each), remembered.now())
        if None in requests:
            services.record_edge_uptime(now)
        decisions = [_decide(each, owners) for each in requests]
        accepted = [
            beat
            for each, decision in zip(requests, decisions, strict=True)
            if each and decision is Decision.GOOD
            for beat in each.beats
        ]
        interval = beats.fleet.interval_ms()
        outcome = beats.record(accepted, now, interval) if accepted else Outcome()
    if outcome.changed:
        publish(outcome.changed)
    batch = WrittenBatch(outcome, now, interval)
    return [
        batch.answer(each, decision) for each, decision in zip(requests, decisions, strict=True)
    ]


def _decide(request: WriteRequest | None, owners: Mapping[str, TokenOwner]) -> Decision:
    if request is None or request.digest is None:
        return Decision.GOOD
    owner = owners.get(request.digest)
    if owner is None:
        return Decision.REFUSED
    if request.single and request.beats[0].vm_id == owner.vm_id:
        return Decision.GOOD
    node = Node(pk=owner.pk, vm_id=owner.vm_id)
    allowed = services.may_send_heartbeats(node, [each.vm_id for each in request.beats])
    return Decision.GOOD if allowed else Decision.UNSURE


@dataclass(frozen=True, slots=True)
class WrittenBatch:
    """The result of one transaction of heartbeats."""

    outcome: Outcome
    now: datetime
    interval: int

    def answer(self, request: WriteRequest | None, decision: Decision) -> JSONResponse | None:
        """Return the response to this request; None to pass it on."""
        if request is None or decision is Decision.UNSURE:
            return None
        if decision is Decision.REFUSED:
            return unauthorized()
        if not request.single:
            response = beats.response_for_many(request.beats, self.outcome, self.now, self.interval)
            return JSONResponse(200, orjson.dumps(response))
        vm_id = request.beats[0].vm_id
        if vm_id not in self.outcome.seen:
            return _not_found()
        return JSONResponse(
            200, orjson.dumps(beats.response_for_one(vm_id, self.outcome, self.interval))
        )


def _not_found() -> JSONResponse:
    return JSONResponse(404, orjson.dumps({"error": services.VM_NOT_FOUND}))


class Notifier:
    """Publishes events in a thread of its own, so that a hanging Redis delays no heartbeat."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reef-tells")

    def publish(self, vm_ids: set[str]) -> None:
        """Publish these ids soon, together with those that arrive until then."""
        with self._lock:
            waiting = bool(self._ids)
            self._ids |= vm_ids
        if not waiting:
            # What is committed is answered, even if nothing can be published any more.
            try:
                self._thread.submit(self._send)
            except RuntimeError as error:
                logger.warning("%d VMs are not published: %s", len(vm_ids), error)

    def close(self) -> None:
        """Stop publishing."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _send(self) -> None:
        with self._lock:
            ids, self._ids = self._ids, set()
        try:
            events.publish_nodes(sorted(ids))
        except Exception:
            # The executor would drop the exception.
            logger.exception("watchers cannot be told of %d VMs", len(ids))
