"""Slow down password guessing, without a thread that waits and without locking people out.

Each attempt counts in three buckets: the account, the address, and both together. A bucket allows
some failures, then blocks for a time that doubles up to a limit. While a bucket blocks, no password
is checked, so guessing costs neither a thread nor a hash. An account's bucket blocks for a minute
at most: guesses from other addresses cannot keep its owner out for longer. A browser in which the
account signed in before has a bucket of its own, so guesses from elsewhere do not delay it at all.
Sign-in links are not throttled.

Loopback addresses have no buckets: all clients behind a proxy on this machine would share them,
unless REEF_TRUSTED_PROXIES names the proxy.

django-axes was considered: it locks accounts for a fixed time, which strangers can trigger.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.core import signing
from django.db import transaction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

from reef_site.accounts.models import AttemptCount
from reef_site.audit.addresses import client_address
from reef_site.edge.client_addresses import client_key, is_loopback

# Failures are forgotten when there was none for this long.
FORGET_AFTER = timedelta(hours=1)
BROWSER_AGE = 90 * 86400
_FIRST_BLOCK_SECONDS = 2.0
_SALT = "reef-known-browser"


@dataclass(frozen=True)
class Bucket:
    """One counter of failures: how many are free, and how long it blocks at most."""

    key: str
    free: int
    max_seconds: float
    # Whether a sign-in resets it. An address is not reset: an attacker may own an account.
    personal: bool = True

    def block_seconds(self, failures: int) -> float:
        """Return for how long the bucket blocks after this many failures."""
        if failures < self.free:
            return 0
        doublings = min(failures - self.free, 30)
        return min(_FIRST_BLOCK_SECONDS * float(2**doublings), self.max_seconds)


@dataclass(frozen=True)
class Attempt:
    """A sign-in attempt: allowed, or refused for `wait_seconds`."""

    # Failures of each bucket, this attempt included.
    failures: Mapping[Bucket, int]
    wait_seconds: int = 0


def begin(request: HttpRequest, username: str) -> Attempt:
    """Count an attempt as failed before the password is checked; `succeeded` reverts it.

    So concurrent attempts are all counted. An attempt that has to wait is not counted.
    """
    buckets = _buckets(request, username)
    now = timezone.now()
    with transaction.atomic():
        rows = _rows(buckets, now)
        wait = max((_wait_seconds(row, now) for row in rows.values()), default=0)
        if wait:
            return Attempt({}, wait)
        failures = {
            each: rows[each.key].failures + 1 if each.key in rows else 1 for each in buckets
        }
        for bucket, count in failures.items():
            seconds = bucket.block_seconds(count)
            _write(bucket, count, now, now + timedelta(seconds=seconds) if seconds else None)
    return Attempt(failures)


def succeeded(attempt: Attempt) -> None:
    """Revert the count of a successful attempt, and the block that it set, if any."""
    now = timezone.now()
    with transaction.atomic():
        personal = [bucket.key for bucket in attempt.failures if bucket.personal]
        AttemptCount.objects.filter(key__in=personal).delete()
        rows = _rows(attempt.failures, now)
        for bucket, failures in attempt.failures.items():
            if row := rows.get(bucket.key):
                # Keep a block that another failure has set since then.
                block = None if row.failures == failures else row.blocked_until
                _write(bucket, max(0, row.failures - 1), now, block)


def forget_old() -> None:
    """Delete the counts that no longer matter."""
    AttemptCount.objects.filter(updated_at__lt=timezone.now() - FORGET_AFTER).delete()


def remember_browser(response: HttpResponseBase, user_id: int) -> None:
    """Set a signed cookie that marks this browser as known for the account."""
    response.set_cookie(
        settings.BROWSER_COOKIE_NAME,
        signing.dumps([user_id, timezone.now().timestamp()], salt=_SALT),
        max_age=BROWSER_AGE,
        path="/signin/",
        httponly=True,
        samesite="Lax",
    )


# -- buckets -----------------------------------------------------------------------------------


def _buckets(request: HttpRequest, username: str) -> tuple[Bucket, ...]:
    account = f"account:{username.casefold()}"
    if browser := _known_browser(request, username):
        return (Bucket(_hash(f"{account} browser:{browser}"), free=5, max_seconds=300),)
    of_account = Bucket(_hash(account), free=15, max_seconds=60)
    network = client_key(client_address(request))
    if is_loopback(network):
        return (of_account,)
    address = f"address:{network}"
    return (
        Bucket(_hash(f"{account} {address}"), free=5, max_seconds=900),
        of_account,
        Bucket(_hash(address), free=30, max_seconds=300, personal=False),
    )


def _known_browser(request: HttpRequest, username: str) -> str:
    """Return the cookie of a browser in which this account signed in before; else an empty text."""
    from django.contrib.auth import get_user_model

    mark = request.COOKIES.get(settings.BROWSER_COOKIE_NAME, "")
    try:
        user_id, _ = signing.loads(mark, salt=_SALT, max_age=BROWSER_AGE)
    except (signing.BadSignature, ValueError, TypeError):
        return ""
    known = get_user_model().objects.filter(pk=user_id, username=username).exists()
    return mark if known else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# -- rows --------------------------------------------------------------------------------------


def _rows(buckets: Iterable[Bucket], now: datetime) -> dict[str, AttemptCount]:
    """Return the counts that still matter, locked until the end of the transaction."""
    rows = AttemptCount.objects.select_for_update().filter(
        key__in=[bucket.key for bucket in buckets], updated_at__gt=now - FORGET_AFTER
    )
    return {row.key: row for row in rows.order_by("key")}


def _write(bucket: Bucket, failures: int, now: datetime, blocked_until: datetime | None) -> None:
    values = {"failures": failures, "blocked_until": blocked_until, "updated_at": now}
    AttemptCount.objects.update_or_create(key=bucket.key, defaults=values)


def _wait_seconds(row: AttemptCount, now: datetime) -> int:
    left = (row.blocked_until - now).total_seconds() if row.blocked_until else 0
    return max(0, math.ceil(left))
