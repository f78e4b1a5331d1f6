"""Tokens of nodes: shown once, kept as hashes, revoked with everything below."""

from __future__ import annotations

import hashlib

from django.db import transaction

from reef_site.common import clock
from reef_site.common.batches import batched
from reef_site.common.ids import new_secret
from vmtree.lineage import keys_below
from vmtree.models import LINKS, Node, NodeToken

PREFIX = "reef_"


def digest_of(token: str) -> str:
    """What is kept of a token. Its 256 random bits need no salt."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def issue(node: Node, *, made_by: str) -> str:
    """A new token for this node; nobody can read it later. It takes the place of older ones."""
    token = new_secret(PREFIX)
    with transaction.atomic():
        _revoke([node.pk])
        NodeToken.objects.create(node=node, digest=digest_of(token), made_by=made_by[:200])
    return token


def renew(node: Node, shown: str, *, made_by: str) -> str:
    """A further token for this node, beside the one that was shown; all others are revoked.

    So a node whose answer is lost still has the one that it showed. `confirm` is the second move.
    """
    token = new_secret(PREFIX)
    with transaction.atomic():
        _revoke([node.pk], keep=digest_of(shown))
        NodeToken.objects.create(node=node, digest=digest_of(token), made_by=made_by[:200])
    return token


def confirm(node: Node, shown: str) -> int:
    """Revoke all tokens of this node but the one that was shown; how many were good before."""
    return _revoke([node.pk], keep=digest_of(shown))


def node_of(token: str) -> Node | None:
    """The living node that this token belongs to; None if it opens nothing."""
    if not token.startswith(PREFIX):
        return None
    found = NodeToken.objects.good().select_related("node").filter(digest=digest_of(token)).first()
    return found.node if found else None


def revoke(node: Node) -> int:
    """Revoke this node's tokens and those of everything below it; how many were good before."""
    return _revoke(keys_below(LINKS, node.pk))


def revoke_all(node_ids: list[int]) -> int:
    """Revoke the tokens of exactly these nodes; how many were good before."""
    return _revoke(node_ids)


def _revoke(node_ids: list[int], keep: str = "") -> int:
    """Nobody remembers a token for longer than a moment: each door looks at the rows.

    `keep` is the hash of a token that stays good.
    """
    now, count = clock.now(), 0
    with transaction.atomic():
        for some in batched(node_ids):
            rows = NodeToken.objects.filter(node__in=some, revoked_at__isnull=True)
            count += rows.exclude(digest=keep).update(revoked_at=now)
    return count
