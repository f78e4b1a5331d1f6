"""Ask people to prove who they are again before they destroy something or see a secret.

A *proof* is a password, or a sign-in link. `SENSITIVE` lists the requests that need a recent one.
Callers with a bearer token need no proof.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.http import HttpRequest

from reef_site.accounts.sessions import SIGNED_IN_AT, USED_AT
from reef_site.common.tools import declared_tools

PROVED_AT = "proved_at"
REFUSAL = (
    "rule: this needs a sign-in that is not older than "
    f"{settings.PROOF_MINUTES} minutes. Open /signin/again/ in this browser, then try again"
)
MAX_BODY = 1 << 16
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
# Actions of admin lists that destroy, revoke or end something.
ADMIN_ACTIONS = frozenset(
    {
        "delete_selected",  # rows
        "revoke_tokens",  # nodes
        "destroy_subtree",
        "revoke",  # node tokens
        "void",  # join tokens
        "destroy_selected",  # lieutenants
        "cancel_delete",  # provisionings
        "act",  # findings
        "go_on",  # jobs
    }
)


def _always(_request: HttpRequest) -> bool:
    return True


def _is_not_dry_run(request: HttpRequest) -> bool:
    """Return whether the request wants more than the plan, which changes nothing."""
    is_dry_run = request.GET.get("dryRun") in ("true", "1") or _json(request).get("dryRun") is True
    return not is_dry_run


def _sets_confirm(request: HttpRequest) -> bool:
    """Return whether the body sets `confirm`; without it the response is a comparison."""
    return _json(request).get("confirm", "") is not None


def _is_destructive_action(request: HttpRequest) -> bool:
    return bool(ADMIN_ACTIONS & set(request.POST.getlist("action")))


def _form_may_delete(request: HttpRequest) -> bool:
    return request.POST.getlist("machine") != ["keep"]


def _json_may_delete(request: HttpRequest) -> bool:
    return _json(request).get("machine") != "keep"


def _is_sensitive_tool(request: HttpRequest) -> bool:
    tool = declared_tools().get(request.path.rstrip("/").rpartition("/")[2])
    is_dry_run = _json(request).get("dryRun") is True
    return tool is not None and tool.is_sensitive and not is_dry_run


@dataclass(frozen=True)
class Sensitive:
    """Requests that need a recent proof: method, a pattern of the whole path, further condition."""

    method: str
    path: str
    applies: Callable[[HttpRequest], bool] = _always

    def matches(self, request: HttpRequest) -> bool:
        """Return whether this request is one of them."""
        is_same_route = request.method == self.method and re.fullmatch(
            self.path, request.path, re.DOTALL
        )
        return bool(is_same_route) and self.applies(request)


SENSITIVE: tuple[Sensitive, ...] = (
    # -- pages
    Sensitive("POST", r"/lieutenants/[^/]+/destroy"),
    Sensitive("POST", r"/lists/runs/destroy/[^/]+/start"),
    Sensitive("POST", r"/fleet/snapshots/[0-9]+/restore"),
    Sensitive("POST", r"/provisioning/door/[0-9]+/void"),
    Sensitive("POST", r"/provisioning/findings/(all|[0-9]+)/"),
    Sensitive("POST", r"/provisioning/[^/]+/cancel/", _form_may_delete),
    # Shows a token.
    Sensitive("POST", r"/access/tokens/"),
    Sensitive("POST", r"/access/tokens/[0-9]+/revoke"),
    Sensitive("POST", r"/event-log/subscribers/[0-9]+/delete/"),
    Sensitive("POST", r"/notifications/[0-9]+/delete/"),
    Sensitive("POST", r"/rules/[0-9]+/delete/"),
    # A rule acts without a person, and a command may do anything on its machine.
    Sensitive("POST", r"/rules/new/"),
    Sensitive("POST", r"/rules/[0-9]+/(on/)?"),
    Sensitive("POST", r"/registry/rules/?"),
    Sensitive("PATCH", r"/registry/rules/[0-9]+/?"),
    Sensitive("POST", r"/provisioning/commands/"),
    Sensitive("POST", r"/bootloader/commands/?"),
    # These show a secret.
    Sensitive("POST", r"/event-log/subscribers/"),
    Sensitive("POST", r"/notifications/"),
    # -- the admin
    Sensitive("POST", r"/admin/[a-z_]+/[a-z_]+/.+/delete/"),
    Sensitive("POST", r"/admin/[a-z_]+/[a-z_]+/", _is_destructive_action),
    Sensitive("POST", r"/admin/vmtree/snapshot/[0-9]+/restore/"),
    Sensitive("POST", r"/admin/operations/job/plan/destroy/"),
    # Accounts, their rights and passwords.
    Sensitive("POST", r"/admin/auth/(user|group)/.+"),
    Sensitive("POST", r"/admin/password_change/"),
    # -- the API
    Sensitive("POST", r"/lieutenant/lieutenants/destroy-all/?"),
    Sensitive("DELETE", r"/lieutenant/lieutenants/[^/]+/?"),
    Sensitive("POST", r"/vm-tree/vms/.+/destroy/?", _is_not_dry_run),
    # Removing a VM, and revoking its token.
    Sensitive("DELETE", r"/vm-tree/vms/.+"),
    # Shows a token, and revokes the one before it.
    Sensitive("POST", r"/vm-tree/vms/.+/token/?"),
    Sensitive("POST", r"/vm-tree/snapshots/[0-9]+/restore/?", _sets_confirm),
    Sensitive("DELETE", r"/registry/vms/.+"),
    Sensitive("DELETE", r"/registry/rules/[0-9]+/?"),
    Sensitive("DELETE", r"/events/subscribers/[0-9]+/?"),
    # These show a secret.
    Sensitive("POST", r"/events/subscribers/?"),
    Sensitive("GET", r"/vers-config/resolve/[^/]+/?"),
    Sensitive("HEAD", r"/vers-config/resolve/[^/]+/?"),
    Sensitive("POST", r"/bootloader/generate/?"),
    Sensitive("POST", r"/bootloader/cloud-init/?"),
    Sensitive("POST", r"/bootloader/provisionings/[^/]+/cancel/?", _json_may_delete),
    Sensitive("POST", r"/bootloader/findings/(act|[0-9]+/act)/?"),
    Sensitive("POST", r"/tools/[^/]+/?", _is_sensitive_tool),
)


def is_sensitive(request: HttpRequest) -> bool:
    """Return whether this request needs a recent proof."""
    return any(each.matches(request) for each in SENSITIVE)


def is_recent(request: HttpRequest) -> bool:
    """Return whether the session has a recent proof."""
    proved_at = request.session.get(PROVED_AT)
    if not isinstance(proved_at, int | float):
        return False
    return 0 <= time.time() - proved_at < settings.PROOF_MINUTES * 60


def note(request: HttpRequest) -> None:
    """Record in the session that the person has just proved their identity."""
    request.session[PROVED_AT] = time.time()


def connect() -> None:
    """Record the time of each sign-in in its session."""
    user_logged_in.connect(_note_sign_in, dispatch_uid="reef-accounts-sign-in")


def _note_sign_in(request: HttpRequest, **_: Any) -> None:
    request.session[SIGNED_IN_AT] = request.session[USED_AT] = time.time()
    note(request)


def _json(request: HttpRequest) -> dict[str, Any]:
    """Return the JSON object in the body; empty if the body is anything else.

    An empty body gives `{"confirm": None}`, an unreadable one `{}`.
    """
    length = request.META.get("CONTENT_LENGTH") or "0"
    if request.content_type in FORMS or not length.isdigit() or int(length) > MAX_BODY:
        return {}
    try:
        body = json.loads(request.body or b"{}")
    except (ValueError, RecursionError):
        return {}
    return {"confirm": None, **body} if isinstance(body, dict) else {}
