"""Write to the audit log. A failed write is logged and does not fail the request."""

from __future__ import annotations

import logging
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.db import Error as DatabaseError
from django.http import HttpRequest
from django.utils import timezone

from reef_site.audit import refusals
from reef_site.audit.addresses import client_address
from reef_site.audit.models import Action, ActorKind, Record
from reef_site.audit.routes import route_of, target_of
from reef_site.common.errors import Forbidden
from reef_site.common.text import escape_unprintable
from vmtree import permissions

logger = logging.getLogger("reef.audit")

UNKNOWN_NAME = "(unknown name)"


def record(
    request: HttpRequest,
    action: Action,
    *,
    reason: str = "",
    target: str = "",
    status: int = 200,
    repeats: bool = False,
) -> None:
    """Record what the caller of this request did.

    With `repeats`, for actions such as refusals, equal records of one minute share a row.
    """
    kind, actor = actor_of(request)
    _write(_row(request, action, kind, actor, reason, target, status), repeats=repeats)


def record_refusal(
    request: HttpRequest, error: Forbidden, *, target: str = "", status: int = 403
) -> None:
    """Record that permissions refused an action: who, what, on which target, by which rule."""
    kind, actor = actor_of(request)
    reason = f"rule: {error.rule}" if error.rule else str(error)
    row = _row(request, Action.REFUSED, kind, actor, reason, target or error.target, status)
    row.permission = error.action[:30]
    _write(row, repeats=True)


def failed_sign_in(request: HttpRequest, username: str, reason: str, *, status: int) -> None:
    """Record and log a failed sign-in. The log shows the name as typed, but escaped."""
    known = username and get_user_model().objects.filter(username=username).exists()
    # A row for each invented name would fill the table.
    actor = username if known else UNKNOWN_NAME if username else ""
    kind = ActorKind.ACCOUNT if known else ActorKind.NOBODY
    row = _row(request, Action.SIGN_IN_FAILED, kind, actor, reason, "", status)
    is_new = _write(row, repeats=True)
    if is_new or status != 429:
        text = "Sign-in failed: account %s from %s: %s"
        logger.warning(text, escape_unprintable(username, 60) or "-", row.address or "-", reason)


def connect() -> None:
    """Record sign-ins and sign-outs wherever they happen, the admin included."""
    user_logged_in.connect(_signed_in, dispatch_uid="reef-audit-sign-in")
    user_logged_out.connect(_signed_out, dispatch_uid="reef-audit-sign-out")


def actor_of(request: HttpRequest) -> tuple[ActorKind, str]:
    """Return the kind and the name of the request's caller."""
    caller: Any = getattr(request, "user", None)
    if caller is None or not caller.is_authenticated:
        return ActorKind.NOBODY, ""
    if permissions.node_of(caller) is not None:
        return ActorKind.NODE, str(caller)
    if permissions.operator_token_of(caller) is not None:
        return ActorKind.TOKEN, str(caller)
    is_account = hasattr(caller, "is_superuser")
    return (ActorKind.ACCOUNT if is_account else ActorKind.ROOT), str(caller)


def _row(
    request: HttpRequest,
    action: Action,
    kind: ActorKind,
    actor: str,
    reason: str,
    target: str,
    status: int,
) -> Record:
    now = timezone.now()
    return Record(
        at=now,
        last_at=now,
        action=action,
        actor=escape_unprintable(actor, 200),
        actor_kind=kind,
        address=client_address(request),
        method=(request.method or "")[:10],
        route=escape_unprintable(route_of(request), 200),
        target=escape_unprintable(target or target_of(request), 300),
        status=status,
        reason=escape_unprintable(reason, 300),
    )


def _write(row: Record, *, repeats: bool) -> bool:
    """Insert the row, or count it in an equal one of this minute; return True if inserted."""
    try:
        if repeats:
            return refusals.add(row)
        row.save()
    except DatabaseError:
        logger.exception("Cannot record that %s", row)
    return True


def _signed_in(request: HttpRequest, user: Any, **_: Any) -> None:
    means = getattr(request, "sign_in_means", "password")
    row = _row(request, Action.SIGN_IN, ActorKind.ACCOUNT, str(user), f"by {means}", "", 200)
    _write(row, repeats=False)


def _signed_out(request: HttpRequest, user: Any, **_: Any) -> None:
    if user is not None:
        row = _row(request, Action.SIGN_OUT, ActorKind.ACCOUNT, str(user), "", "", 200)
        _write(row, repeats=False)
