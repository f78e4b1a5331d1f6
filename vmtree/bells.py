"""Doorbells through Redis: they only make a reaction sooner, so a dead Redis is no error.

`ring` wakes the follower of a host, the others tell the edge (and so the pages) what to look at
again. They say ids, never data: whoever hears them reads the database.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import time
from collections.abc import Iterable

import redis
from django.conf import settings
from redis.client import PubSub

logger = logging.getLogger(__name__)

BELL = "reef:bell"
NEWS = "reef:news"
# Of more changes at once nobody wants the ids: look at everything again.
MOST_IDS = 500
_QUIET_SECONDS = 30.0
_last_complaint = -_QUIET_SECONDS


@functools.cache
def client() -> redis.Redis:
    """This process's connection pool."""
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=1, health_check_interval=30
    )


def subscription() -> PubSub:
    """A subscription of its own connection, without the messages about itself."""
    made: PubSub = client().pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    return made


def _publish(channel: str, payload: str) -> None:
    global _last_complaint
    try:
        client().publish(channel, payload)
    except (redis.RedisError, OSError) as error:
        if time.monotonic() - _last_complaint > _QUIET_SECONDS:
            _last_complaint = time.monotonic()
            logger.warning("Redis does not answer (%s); reactions come later", error)


def ring(lieutenant_id: str) -> None:
    """Wake the follower: there is something new to do for this lieutenant."""
    _publish(BELL, lieutenant_id)


def tell_change(lieutenant_id: str) -> None:
    """Say that the facts of this lieutenant changed (not its transcript)."""
    _publish(NEWS, json.dumps({"topic": "lieutenants", "id": lieutenant_id}))


def tell_transcripts(revs: dict[str, int]) -> None:
    """Say up to which change each of these lieutenants' transcripts has grown."""
    _publish(NEWS, json.dumps({"topic": "transcripts", "revs": revs}))


def tell_nodes(vm_ids: Iterable[str]) -> None:
    """Say that these VMs changed, in the tree or in the registry; of very many only that some did.

    The message is `{"topic": "nodes", "ids": […]}`, or `{"topic": "nodes", "all": true}`.
    """
    ids = list(itertools.islice(vm_ids, MOST_IDS + 1))
    what: dict[str, object] = {"ids": ids} if len(ids) <= MOST_IDS else {"all": True}
    if ids:
        _publish(NEWS, json.dumps({"topic": "nodes", **what}))


def tell_provisionings(ids: Iterable[str]) -> None:
    """Say that these provisionings moved on: `{"topic": "provisionings", "ids": […]}`."""
    _publish(NEWS, json.dumps({"topic": "provisionings", "ids": list(ids)}))
