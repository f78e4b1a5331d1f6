"""Doorbells through Redis: they only make a reaction sooner, so a dead Redis is no error,
and nobody who rings waits for it.

`ring` wakes the follower of a host, the others tell the edge (and so the pages) what to look at
again. They say ids, never data: whoever hears them reads the database.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable

from redis.client import PubSub

from reef_site.common import broker
from reef_site.common.broker import NEWS, client

__all__ = ["BELL", "NEWS", "client"]

BELL = "reef:bell"
# Of more changes at once nobody wants the ids: look at everything again.
MAX_IDS = 500


def subscription() -> PubSub:
    """A subscription of its own connection, without the messages about itself."""
    made: PubSub = client().pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    return made


def wake_follower(lieutenant_id: str) -> None:
    """Wake the follower: there is something new to do for this lieutenant."""
    broker.publish(BELL, lieutenant_id)


def publish_lieutenant(lieutenant_id: str) -> None:
    """Say that the facts of this lieutenant changed (not its transcript)."""
    broker.publish(NEWS, json.dumps({"topic": "lieutenants", "id": lieutenant_id}))


def publish_transcripts(revs: dict[str, int]) -> None:
    """Say up to which change each of these lieutenants' transcripts has grown."""
    broker.publish(NEWS, json.dumps({"topic": "transcripts", "revs": revs}))


def publish_nodes(vm_ids: Iterable[str]) -> None:
    """Say that these VMs changed, in the tree or in the registry; of very many only that some did.

    The message is `{"topic": "nodes", "ids": […]}`, or `{"topic": "nodes", "all": true}`.
    """
    ids = list(itertools.islice(vm_ids, MAX_IDS + 1))
    what: dict[str, object] = {"ids": ids} if len(ids) <= MAX_IDS else {"all": True}
    if ids:
        broker.publish(NEWS, json.dumps({"topic": "nodes", **what}))


def publish_provisionings(ids: Iterable[str]) -> None:
    """Say that these provisionings moved on: `{"topic": "provisionings", "ids": […]}`."""
    broker.publish(NEWS, json.dumps({"topic": "provisionings", "ids": list(ids)}))
