"""Use cases of operator tokens: make one, revoke it, find who presents it."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Q

from reef_site.common import clock
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.eventlog import recording
from reef_site.common.eventlog.recording import NewEvent
from reef_site.common.ids import new_secret
from vmtree import permissions, tokens
from vmtree.models import Node, OperatorToken
from vmtree.permissions import Action

logger = logging.getLogger(__name__)

# Not `reef_`: the fast path of the registry knows node tokens by that.
PREFIX = "reefop_"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# The address and time of a use are not written more often than this.
USE_INTERVAL = timedelta(minutes=1)


def make(
    name: str,
    scope: str,
    *,
    subtree: Node | None = None,
    expires_at: datetime | None = None,
    by: object,
) -> tuple[OperatorToken, str]:
    """Make a token. Return its row and the token, which cannot be shown again.

    Raises BadInput, Forbidden.
    """
    permissions.check(by, Action.MAKE_TOKENS, None)
    if not NAME.fullmatch(name):
        text = "use 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"
        raise BadInput(f"name: {text}", "name")
    if expires_at is not None and expires_at <= clock.now():
        raise BadInput("expires_at: is in the past", "expires_at")
    token = new_secret(PREFIX)
    row = OperatorToken(name=name, scope=OperatorToken.Scope(scope), subtree=subtree)
    row.digest, row.made_by, row.expires_at = tokens.digest_of(token), str(by)[:200], expires_at
    try:
        with transaction.atomic():
            row.save(force_insert=True)
            detail = {"scope": row.scope, "subtree": subtree.vm_id if subtree else ""}
            recording.record("permission.token-made", name, actor=by, detail=detail, vm_id="")
    except IntegrityError:
        raise BadInput(_name_taken(name), "name") from None
    logger.info("operator token %s (%s) was made by %s", name, scope, by)
    return row, token


def revoke(key: int, *, by: object) -> OperatorToken:
    """Revoke a token; doing it again changes nothing. Raises NotFound, Forbidden.

    It takes effect at once: each entrance looks the token up in these rows.
    """
    permissions.check(by, Action.MAKE_TOKENS, None)
    row = OperatorToken.objects.filter(pk=key).first()
    if row is None:
        raise NotFound("token not found")
    living = OperatorToken.objects.filter(pk=key, revoked_at__isnull=True)
    with transaction.atomic():
        if living.update(revoked_at=clock.now(), revoked_by=str(by)[:200]):
            recording.record("permission.token-revoked", row.name, actor=by, vm_id="")
            logger.info("operator token %s was revoked by %s", row.name, by)
    row.refresh_from_db()
    return row


def revoke_all(node_ids: Iterable[int], *, by: object) -> None:
    """Revoke the tokens whose subtree is that of one of these nodes, which are being removed.

    They would become valid again if the nodes were restored.
    """
    living = OperatorToken.objects.filter(revoked_at__isnull=True, subtree__isnull=False)
    # There are few such tokens, but perhaps many nodes.
    removed = set(node_ids)
    rows = [row for row in living.order_by("pk") if row.subtree_id in removed]
    if not rows:
        return
    keys = [row.pk for row in rows]
    now, actor = clock.now(), str(by)[:200]
    living.filter(pk__in=keys).update(revoked_at=now, revoked_by=actor)
    revoked = [NewEvent("permission.token-revoked", row.name, vm_id="") for row in rows]
    recording.record_many(revoked, actor=by)


def find(token: str) -> OperatorToken | None:
    """Return the valid operator token that this is; None if it is none."""
    if not token.startswith(PREFIX):
        return None
    return good_ones([tokens.digest_of(token)]).get(tokens.digest_of(token))


def good_ones(digests: Collection[str]) -> dict[str, OperatorToken]:
    """Map these hashes to the valid tokens that have them, with one query."""
    rows = OperatorToken.objects.good().select_related("subtree").filter(digest__in=digests)
    return {row.digest: row for row in rows} if digests else {}


def note_use(row: OperatorToken, address: str) -> None:
    """Write time and address of a use, unless that was done within the last minute."""
    now = clock.now()
    if row.last_used_at and now - row.last_used_at < USE_INTERVAL:
        return
    # The WHERE clause lets one of concurrent requests write.
    due = Q(last_used_at__isnull=True) | Q(last_used_at__lte=now - USE_INTERVAL)
    mine = OperatorToken.objects.filter(due, pk=row.pk)
    mine.update(last_used_at=now, last_address=address[:45])


def _name_taken(name: str) -> str:
    """Return why no token can have this name."""
    if OperatorToken.objects.filter(name=name, revoked_at__isnull=False).exists():
        return f"name: token {name} was revoked; its name is never given again"
    return f"name: there is a token {name} already"
