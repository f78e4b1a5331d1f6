"""Tokens of nodes: shown once, stored as hashes, revoked with all descendants."""

from __future__ import annotations

import hashlib

from django.db import transaction

from reef_site.common import clock
from reef_site.common.batches import batched
from reef_site.common.eventlog import recording
from reef_site.common.ids import new_secret
from vmtree.lineage import descendant_keys
from vmtree.models import LINKS, Node, NodeToken

PREFIX = "reef_"


def digest_of(token: str) -> str:
    """Return the stored hash of a token. Its 256 random bits need no salt."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def issue(node: Node, *, made_by: str) -> str:
    """Create a token for this node and revoke its older ones. Only the hash is stored."""
    token = new_secret(PREFIX)
    with transaction.atomic():
        _revoke([node.pk])
        NodeToken.objects.create(node=node, digest=digest_of(token), made_by=made_by[:200])
    return token


def renew(node: Node, shown: str, *, made_by: str) -> str:
    """Create a further token; revoke all others except the one that was presented.

    So a node that never receives the response still has a working token. `confirm` is the second
    step.
    """
    token = new_secret(PREFIX)
    with transaction.atomic():
        _revoke([node.pk], keep=digest_of(shown))
        NodeToken.objects.create(node=node, digest=digest_of(token), made_by=made_by[:200])
    return token


def confirm(node: Node, shown: str) -> int:
    """Revoke all tokens of this node except the presented one. Return how many were valid."""
    return _revoke([node.pk], keep=digest_of(shown))


def node_of(token: str) -> Node | None:
    """Return the active node that this token belongs to; None if the token is not valid."""
    if not token.startswith(PREFIX):
        return None
    found = NodeToken.objects.good().select_related("node").filter(digest=digest_of(token)).first()
    return found.node if found else None


def revoke(node: Node, *, by: object) -> int:
    """Revoke the tokens of this node and its descendants. Return how many were valid."""
    with transaction.atomic():
        count = _revoke(descendant_keys(LINKS, node.pk))
        recording.record("tree.tokens-revoked", node.vm_id, actor=by, detail={"count": count})
    return count


def revoke_all(node_ids: list[int]) -> int:
    """Revoke the tokens of exactly these nodes. Return how many were valid."""
    return _revoke(node_ids)


def _revoke(node_ids: list[int], keep: str = "") -> int:
    """Revoke tokens, except the one with the hash `keep`. Return how many were valid.

    Takes effect at once: every entry point looks the token up in these rows.
    """
    now, count = clock.now(), 0
    with transaction.atomic():
        for some in batched(node_ids):
            rows = NodeToken.objects.filter(node__in=some, revoked_at__isnull=True)
            count += rows.exclude(digest=keep).update(revoked_at=now)
    return count
