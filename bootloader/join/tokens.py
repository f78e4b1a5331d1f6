"""Join tokens: each lets one VM join the fleet, and is exchanged once for a node token.

A token is bound to its VM's future node and profile, and is valid for minutes. Attempts with a
used, voided, expired or foreign token are rejected with a reason and recorded as `JoinRefusal`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address

from django.conf import settings
from django.db import transaction
from django.db.models import F

from bootloader.exceptions import JoinRefused
from bootloader.models.joining import JoinRefusal, JoinToken, RefusalReason
from reef_site.common import clock, events
from reef_site.common.errors import BadInput, Conflict
from reef_site.common.eventlog import recording
from reef_site.common.ids import new_secret
from reef_site.common.retention import delete_in_batches
from registry import services as registry
from registry.services import Registration
from vmtree import services as tree
from vmtree import tokens
from vmtree.dna import Dna, empty
from vmtree.models import Node, NodeToken

PREFIX = "reefjoin_"
DEFAULT_MINUTES, MAX_MINUTES = 60, 7 * 24 * 60
# A VM that lost the response may repeat its join, and may still report, for this long.
REPEAT_WINDOW = timedelta(minutes=10)
# Rejections that are kept.
MAX_REFUSALS = 1000


@dataclass(frozen=True)
class JoinFacts:
    """A VM's description of itself in a join request. `remote` is the address of the request.

    `nonce` is a random value of this join: a VM that lost the response may repeat the request with
    it. `vm_id`, if given, must match the token.
    """

    hostname: str = ""
    address: str = ""
    agent_version: str = ""
    nonce: str = field(default="", repr=False)
    vm_id: str = ""
    remote: str = ""


def issue(
    *,
    vm_id: str,
    name: str,
    profile: str,
    category: str,
    role: str,
    parent_vm_id: str | None,
    by: object,
    minutes: int = DEFAULT_MINUTES,
    dna: Dna | None = None,
    address: str = "",
) -> str:
    """Return a new join token for a VM. Only its digest is stored.

    Unused tokens of the same VM are voided. The caller checks permissions. Raise BadInput.
    """
    if not 1 <= minutes <= MAX_MINUTES:
        raise BadInput(f"minutes: must be a whole number from 1 to {MAX_MINUTES}", "minutes")
    token, now = new_secret(PREFIX), clock.now()
    with transaction.atomic():
        revoke_unused(vm_id)
        JoinToken.objects.create(
            digest=tokens.digest_of(token),
            vm_id=vm_id,
            name=name,
            profile=profile,
            category=category,
            role=role,
            parent_vm_id=parent_vm_id or None,
            reef_config=dna or empty(),
            address=address,
            made_at=now,
            made_by=str(by)[:200],
            expires_at=now + timedelta(minutes=minutes),
        )
    return token


def revoke_unused(vm_id: str) -> int:
    """Void all unused tokens of this VM; return how many there were."""
    now = clock.now()
    return JoinToken.objects.filter(vm_id=vm_id).open(now).update(voided_at=now)


def find_valid(text: str, *, remote: str = "", just_used: bool = False) -> JoinToken:
    """Return the row of a token that is valid for reports and downloads. Raise JoinRefused.

    `just_used` also accepts a token that was redeemed within the last minutes.
    """
    with _recording_refusals(remote):
        token = _find_token(text)
        used = token.used_at if just_used and not token.voided_at else None
        if used is None or clock.now() - used > REPEAT_WINDOW:
            _check_open(token)
    return token


def redeem(text: str, facts: JoinFacts) -> tuple[Node, str]:
    """Redeem a join token: create the VM's node and registry row, and return the node and its node
    token.

    Succeeds once for each token. The same VM may repeat it for some minutes with its nonce and then
    gets a fresh token. Raise JoinRefused; status 409 means that the tree has changed so that the VM
    cannot be placed as planned.
    """
    with _recording_refusals(facts.remote), transaction.atomic():
        token = _find_token(text)
        if facts.vm_id and facts.vm_id != token.vm_id:
            problem = f"this join token is for another VM than '{facts.vm_id[:255]}'"
            raise JoinRefused(problem, RefusalReason.FOREIGN, token, status=403)
        if not _claim(token, facts):
            _check_repeat(token, facts)
        try:
            node = _register_member(token, facts)
        except (BadInput, Conflict) as error:
            problem = f"'{token.vm_id}' cannot join: {error}"
            raise JoinRefused(problem, RefusalReason.CLASH, token, status=409) from error
        node_token = tokens.issue(node, made_by=f"join of {token.vm_id}")
        JoinToken.objects.filter(pk=token.pk).update(given_digest=tokens.digest_of(node_token))
        detail = {"hostname": facts.hostname, "address": facts.remote}
        recording.record("boot.joined", node.vm_id, actor=f"VM {node.vm_id}", detail=detail)
    return node, node_token


def sweep() -> int:
    """Delete tokens that ended long ago, with their rejections, and all but the newest rejections.

    Return the number of tokens. Pages show the others with their outcome.
    """
    oldest = clock.now() - timedelta(days=settings.BOOT_DAYS)
    deleted = delete_in_batches(JoinToken.objects.filter(expires_at__lt=oldest))
    newest = JoinRefusal.objects.order_by("-last_at", "-id").values("pk")[:MAX_REFUSALS]
    surplus = JoinRefusal.objects.exclude(pk__in=list(newest.values_list("pk", flat=True)))
    delete_in_batches(surplus)
    return deleted


# -- redeeming -----------------------------------------------------------------------------------


def _claim(token: JoinToken, facts: JoinFacts) -> bool:
    """Mark the token as used; return False if it is not open. The WHERE clause is the lock."""
    now = clock.now()
    used_by = " ".join(filter(None, [facts.hostname, facts.remote]))[:255]
    mine = JoinToken.objects.filter(pk=token.pk).open(now)
    return bool(mine.update(used_at=now, used_by=used_by, nonce_digest=_nonce_digest(facts.nonce)))


def _check_repeat(token: JoinToken, facts: JoinFacts) -> None:
    """Raise JoinRefused unless the VM that has just used the token repeats its request."""
    token.refresh_from_db()
    same = bool(facts.nonce) and hmac.compare_digest(token.nonce_digest, _nonce_digest(facts.nonce))
    in_time = token.used_at is not None and clock.now() - token.used_at < REPEAT_WINDOW
    # An operator may have revoked the node token; a repeated join must not replace it.
    still_valid = NodeToken.objects.good().filter(digest=token.given_digest).exists()
    if same and in_time and still_valid and not token.voided_at:
        return
    _check_open(token)
    raise AssertionError("a token that is open was not claimed")  # pragma: no cover


def _register_member(token: JoinToken, facts: JoinFacts) -> Node:
    """Return the VM's node, created if missing, and register the VM."""
    by = f"join token of {token.vm_id}"
    node = Node.objects.active().filter(vm_id=token.vm_id).first()
    if node is None:
        parent = token.parent_vm_id or ""
        new = tree.NewNode(token.name, token.category, token.vm_id, parent, token.reef_config)
        node = tree.create(new, by=by)
    registry.register(
        Registration(
            id=token.vm_id,
            name=token.name or token.vm_id,
            role=token.role,
            address=token.address or facts.address or _request_address(facts) or token.vm_id,
            registered_by="bootloader",
            parent_vm_id=token.parent_vm_id,
            reef_config=dict(token.reef_config),
            metadata={
                "profile": token.profile,
                "hostname": facts.hostname,
                "agentVersion": facts.agent_version,
                "registeredVia": "bootloader",
            },
        )
    )
    return node


def _request_address(facts: JoinFacts) -> str:
    """Return the address of the VM's request, or its host name if others cannot use that
    address.
    """
    try:
        seen = ip_address(facts.remote)
    except ValueError:
        return facts.hostname
    local = seen.is_loopback or seen.is_link_local or seen.is_unspecified
    return facts.hostname if local else str(seen)


def _nonce_digest(nonce: str) -> str:
    return hashlib.sha256(nonce.encode("utf-8", "replace")).hexdigest() if nonce else ""


# -- rejections ----------------------------------------------------------------------------------


def _find_token(text: str) -> JoinToken:
    token = JoinToken.objects.filter(digest=tokens.digest_of(text)).first()
    if token is None or not text.startswith(PREFIX):
        raise JoinRefused(
            "this join token is not known here; have a new one made", RefusalReason.UNKNOWN
        )
    return token


def _check_open(token: JoinToken) -> None:
    """Raise JoinRefused with the reason if the token is not open."""
    if token.used_at:
        problem = f"this join token was used at {clock.format_timestamp(token.used_at)}"
        raise JoinRefused(problem, RefusalReason.USED, token)
    if token.voided_at:
        problem = f"this join token was voided at {clock.format_timestamp(token.voided_at)}"
        raise JoinRefused(problem, RefusalReason.VOIDED, token)
    if token.expires_at <= clock.now():
        problem = f"this join token expired at {clock.format_timestamp(token.expires_at)}"
        raise JoinRefused(problem, RefusalReason.EXPIRED, token)


@contextlib.contextmanager
def _recording_refusals(remote: str) -> Iterator[None]:
    """Record each JoinRefused raised inside, or increase the count of an existing row."""
    try:
        yield
    except JoinRefused as refusal:
        _record_refusal(refusal, remote[:255])
        raise


def _record_refusal(refusal: JoinRefused, remote: str) -> None:
    now, text = clock.now(), str(refusal)[:500]
    row, made = JoinRefusal.objects.get_or_create(
        token=refusal.token, why=refusal.why, remote=remote, defaults={"text": text}
    )
    if not made:
        again = JoinRefusal.objects.filter(pk=row.pk)
        again.update(count=F("count") + 1, last_at=now, text=text)
    elif JoinRefusal.objects.count() > 2 * MAX_REFUSALS:
        sweep()
    if refusal.token is not None:
        events.publish_nodes([refusal.token.vm_id])
