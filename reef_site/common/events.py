"""Events over Redis: which rows changed, so that whoever shows or follows them reads them again.

    with transaction.atomic():
        row.save()
        events.publish_nodes([row.vm_id])      # sent after the commit

An event only makes a reaction sooner. It names ids, never data, and may be lost: the database is
the truth, and subscribers read it again by themselves. So a dead Redis is not an error, and no
publisher waits for it.

There are two channels. On `CHANNEL` each message is a JSON object with a `topic` and that topic's
payload, which the edge fans out to browsers (`Topic`). On `WAKE_CHANNEL` a message is the plain id
of a lieutenant; it wakes the followers.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from enum import StrEnum

from redis.client import PubSub

from reef_site.common import broker
from reef_site.common.transactions import after_commit

CHANNEL = "reef:news"
WAKE_CHANNEL = "reef:bell"
# An event about more VMs than these names none of them.
MAX_IDS = 500


class Topic(StrEnum):
    """The subject of a message on `CHANNEL`. The comments show the payload beside `topic`."""

    # {"id": "<lieutenant id>"}: its columns changed, not its transcript.
    LIEUTENANTS = "lieutenants"
    # {"revs": {"<lieutenant id>": 41, …}}: its transcript has grown up to this revision.
    TRANSCRIPTS = "transcripts"
    # {"ids": ["<VM id>", …]} changed in the tree or the registry; {"all": true} if very many did.
    NODES = "nodes"
    # {"ids": ["<provisioning id>", …]}: their state, step or log changed.
    PROVISIONINGS = "provisionings"
    # {"ids": ["<question id>", …]} were asked or decided.
    QUESTIONS = "questions"
    # {}: new rows are in the event log.
    RECORDED = "recorded"
    # {"seconds": 2.5}: events of this last time were dropped, of any topic.
    MISSED = "missed"


def publish(topic: Topic, **payload: object) -> None:
    """Send a message to all subscribers of `CHANNEL` after the current transaction."""
    _send(CHANNEL, json.dumps({"topic": topic.value, **payload}))


def publish_lieutenant(lieutenant_id: str) -> None:
    """Publish that the columns of this lieutenant changed."""
    publish(Topic.LIEUTENANTS, id=lieutenant_id)


def publish_transcripts(revs: dict[str, int]) -> None:
    """Publish the newest revision of each of these lieutenants' transcripts."""
    publish(Topic.TRANSCRIPTS, revs=revs)


def publish_nodes(vm_ids: Iterable[str]) -> None:
    """Publish that these VMs changed; without any, nothing is sent."""
    ids = list(itertools.islice(vm_ids, MAX_IDS + 1))
    if len(ids) > MAX_IDS:
        publish(Topic.NODES, all=True)
    elif ids:
        publish(Topic.NODES, ids=ids)


def publish_provisionings(ids: Iterable[str]) -> None:
    """Publish that these provisionings moved on."""
    publish(Topic.PROVISIONINGS, ids=list(ids))


def publish_questions(ids: Iterable[str]) -> None:
    """Publish that these questions of agents were asked or decided."""
    publish(Topic.QUESTIONS, ids=list(ids))


def wake_follower(lieutenant_id: str) -> None:
    """Have the followers look at this lieutenant after the current transaction."""
    _send(WAKE_CHANNEL, lieutenant_id)


def subscription() -> PubSub:
    """Return a subscription with its own connection, which reports no messages about itself."""
    made: PubSub = broker.client().pubsub(  # type: ignore[no-untyped-call]
        ignore_subscribe_messages=True
    )
    return made


def _send(channel: str, message: str) -> None:
    after_commit(lambda: broker.publish(channel, message))


@broker.on_recovery
def _publish_missed(seconds: float) -> None:
    """Have subscribers read the rows that changed while messages were dropped."""
    publish(Topic.MISSED, seconds=round(seconds + 1, 1))
