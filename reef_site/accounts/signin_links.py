"""Links that sign in the operator, once, and the account of the operator."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.utils import timezone

OPERATOR = "admin"


def page_url(url: str) -> str:
    """Return the URL at which browsers open pages: loopback addresses get reef's own host name.

    So the cookies do not reach other web servers of this machine. The name stands for 127.0.0.1
    and ::1 only, not for other loopback addresses.
    """
    parts = urlsplit(url)
    if not settings.OWN_HOST or parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return url
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=f"{settings.OWN_HOST}{port}"))


def make_signin_link(base_url: str) -> str:
    """Return a link that signs in the operator, once, within 15 minutes.

    It is stored as a row of the session table: the key is the hash of the link's secret. Using the
    link deletes the row, so only one of two concurrent uses succeeds.
    """
    make_operator()
    secret = secrets.token_urlsafe(24)
    Session.objects.create(
        session_key=_link_key(secret),
        session_data="",
        expire_date=timezone.now() + timedelta(minutes=settings.SIGNIN_MINUTES),
    )
    return f"{base_url.rstrip('/')}/signin/{secret}"


def use_signin_link(secret: str) -> User | None:
    """Return the operator if the link is valid, and invalidate it; else None."""
    valid_links = Session.objects.filter(
        session_key=_link_key(secret), session_data="", expire_date__gt=timezone.now()
    )
    deleted, _ = valid_links.delete()
    return make_operator() if deleted else None


def make_operator() -> User:
    """Return the operator's account, created without a password if there is none."""
    users = get_user_model()
    operator, made = users.objects.get_or_create(
        username=OPERATOR, defaults={"is_staff": True, "is_superuser": True}
    )
    if made:
        operator.set_unusable_password()
        operator.save(update_fields=["password"])
    return operator


def _link_key(secret: str) -> str:
    return "l" + hashlib.sha256(secret.encode()).hexdigest()[:39]
