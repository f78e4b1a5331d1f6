"""Join tokens: one VM's way into the fleet. Given out once, traded once for a token of its own.

A token is bound to the node and profile that its VM will have. It lives for minutes, and whoever
comes with one that is used, voided, expired or another VM's is turned away in words and written
down as a `JoinRefusal`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address

from django.db import transaction
from django.db.models import F

from bootloader.exceptions import JoinRefused
from bootloader.models.joining import JoinRefusal, JoinToken, Why
from reef_site.common import clock, events
from reef_site.common.errors import BadInput, Conflict
from reef_site.common.ids import new_secret
from registry import services as registry
from registry.serializers import Registration
from vmtree import services as tree
from vmtree import tokens
from vmtree.dna import Dna, empty
from vmtree.models import Node, NodeToken

PREFIX = "reefjoin_"
MINUTES, MOST_MINUTES = 60, 7 * 24 * 60
# For so long after its use a VM whose answer was lost may ask again, and may still report.
AGAIN = timedelta(minutes=10)
# A token is kept for so long after its end, so that pages show what became of it.
KEPT = timedelta(days=30)
MOST_REFUSALS = 1000


@dataclass(frozen=True)
class Facts:
    """What a VM says of itself when it joins. `remote` is where its request came from.

    `nonce` is a word that it made for this one join: with the same word it may ask again when the
    answer was lost. `vm_id`, where it says one, must be that of the token.
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
    minutes: int = MINUTES,
    dna: Dna | None = None,
    address: str = "",
) -> str:
    """A join token for this future member; nobody can read it later.

    Tokens that were given out for the same VM and not used are voided. Whether the caller may have
    a VM join is for the caller's door to ask. Raises BadInput.
    """
    if not 1 <= minutes <= MOST_MINUTES:
        raise BadInput(f"minutes: must be a whole number from 1 to {MOST_MINUTES}", "minutes")
    token, now = new_secret(PREFIX), clock.now()
    with transaction.atomic():
        void(vm_id)
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


def void(vm_id: str) -> int:
    """Shut the door to all tokens of this VM that were not used; how many there were."""
    now = clock.now()
    return JoinToken.objects.filter(vm_id=vm_id).open(now).update(voided_at=now)


def opened_by(text: str, *, remote: str = "", just_used: bool = False) -> JoinToken:
    """The token that this text is, if it opens reports and downloads. Raises JoinRefused.

    With `just_used` one that was traded within the last minutes is good enough.
    """
    with _written_down(remote):
        token = _row_of(text)
        used = token.used_at if just_used and not token.voided_at else None
        if used is None or clock.now() - used > AGAIN:
            _check_open(token)
    return token


def trade(text: str, facts: Facts) -> tuple[Node, str]:
    """Take the VM into tree and registry; its node and the node's own token.

    Happens once for each token; the same VM may repeat it for some minutes with its nonce, and
    then gets a fresh token. Raises JoinRefused; with status 409 if the tree has changed so that
    the VM cannot be put where it was meant to be.
    """
    with _written_down(facts.remote), transaction.atomic():
        token = _row_of(text)
        if facts.vm_id and facts.vm_id != token.vm_id:
            words = f"this join token is for another VM than '{facts.vm_id[:255]}'"
            raise JoinRefused(words, Why.FOREIGN, token, status=403)
        if not _claim(token, facts):
            _check_again(token, facts)
        try:
            node = _take_in(token, facts)
        except (BadInput, Conflict) as error:
            words = f"'{token.vm_id}' cannot join: {error}"
            raise JoinRefused(words, Why.CLASH, token, status=409) from error
        given = tokens.issue(node, made_by=f"join of {token.vm_id}")
        JoinToken.objects.filter(pk=token.pk).update(given_digest=tokens.digest_of(given))
    return node, given


def sweep() -> None:
    """Forget tokens that ended long ago, with their refusals, and all but the newest refusals."""
    JoinToken.objects.filter(expires_at__lt=clock.now() - KEPT).delete()
    newest = JoinRefusal.objects.order_by("-last_at", "-id").values("pk")[:MOST_REFUSALS]
    JoinRefusal.objects.exclude(pk__in=list(newest.values_list("pk", flat=True))).delete()


# -- the one use ---------------------------------------------------------------------------------


def _claim(token: JoinToken, facts: Facts) -> bool:
    """Use the token; False if it is not open. The WHERE clause lets one of two in."""
    now = clock.now()
    used_by = " ".join(filter(None, [facts.hostname, facts.remote]))[:255]
    mine = JoinToken.objects.filter(pk=token.pk).open(now)
    return bool(mine.update(used_at=now, used_by=used_by, nonce_digest=_nonce_digest(facts.nonce)))


def _check_again(token: JoinToken, facts: Facts) -> None:
    """Raise JoinRefused unless this is the VM that has just used the token, asking once more."""
    token.refresh_from_db()
    same = bool(facts.nonce) and hmac.compare_digest(token.nonce_digest, _nonce_digest(facts.nonce))
    soon = token.used_at is not None and clock.now() - token.used_at < AGAIN
    # What it was given may have been revoked by an operator; that stays so.
    held = NodeToken.objects.good().filter(digest=token.given_digest).exists()
    if same and soon and held and not token.voided_at:
        return
    _check_open(token)
    raise AssertionError("a token that is open was not claimed")  # pragma: no cover


def _take_in(token: JoinToken, facts: Facts) -> Node:
    """Its node in the tree, made unless it is there, and its row in the registry."""
    by = f"join token of {token.vm_id}"
    node = Node.objects.living().filter(vm_id=token.vm_id).first()
    if node is None:
        parent = token.parent_vm_id or ""
        new = tree.NewNode(token.name, token.category, token.vm_id, parent, token.reef_config)
        node = tree.create(new, by=by)
    registry.register(
        Registration(
            id=token.vm_id,
            name=token.name or token.vm_id,
            role=token.role,
            address=token.address or facts.address or _own_address(facts) or token.vm_id,
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


def _own_address(facts: Facts) -> str:
    """Where the VM's request came from, unless that is no address for others; else its name."""
    try:
        seen = ip_address(facts.remote)
    except ValueError:
        return facts.hostname
    local = seen.is_loopback or seen.is_link_local or seen.is_unspecified
    return facts.hostname if local else str(seen)


def _nonce_digest(nonce: str) -> str:
    return hashlib.sha256(nonce.encode("utf-8", "replace")).hexdigest() if nonce else ""


# -- who is turned away --------------------------------------------------------------------------


def _row_of(text: str) -> JoinToken:
    token = JoinToken.objects.filter(digest=tokens.digest_of(text)).first()
    if token is None or not text.startswith(PREFIX):
        raise JoinRefused("this join token is not known here; have a new one made", Why.UNKNOWN)
    return token


def _check_open(token: JoinToken) -> None:
    """Raise JoinRefused with what is wrong with it, if anything is."""
    if token.used_at:
        words = f"this join token was used at {clock.format_timestamp(token.used_at)}"
        raise JoinRefused(words, Why.USED, token)
    if token.voided_at:
        words = f"this join token was voided at {clock.format_timestamp(token.voided_at)}"
        raise JoinRefused(words, Why.VOIDED, token)
    if token.expires_at <= clock.now():
        words = f"this join token expired at {clock.format_timestamp(token.expires_at)}"
        raise JoinRefused(words, Why.EXPIRED, token)


@contextlib.contextmanager
def _written_down(remote: str) -> Iterator[None]:
    """Keep a row of each refusal, or count it on the row that is there."""
    try:
        yield
    except JoinRefused as refusal:
        _write_down(refusal, remote[:255])
        raise


def _write_down(refusal: JoinRefused, remote: str) -> None:
    now, text = clock.now(), str(refusal)[:500]
    row, made = JoinRefusal.objects.get_or_create(
        token=refusal.token, why=refusal.why, remote=remote, defaults={"text": text}
    )
    if not made:
        again = JoinRefusal.objects.filter(pk=row.pk)
        again.update(count=F("count") + 1, last_at=now, text=text)
    elif JoinRefusal.objects.count() > 2 * MOST_REFUSALS:
        sweep()
    if refusal.token is not None:
        events.publish_nodes([refusal.token.vm_id])
