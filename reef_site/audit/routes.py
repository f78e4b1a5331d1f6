"""Names of routes and targets in the audit log, and the requests that it leaves out."""

from __future__ import annotations

import functools
import re
from typing import Any

from django.http import HttpRequest, UnreadablePostError

# Views that write their own records, or are part of the sign-in.
OWN_RECORDS = frozenset({"signin", "signin-link", "signout", "signin-again", "admin:logout"})
# POST requests that change nothing.
READS = frozenset({"fleet:news", "versconfig:preview", "bootloader:change", "rule-dry-run"})
# Requests that agents and VMs send all the time: heartbeats, refreshed registrations, boot reports.
HIGH_VOLUME = re.compile(
    r"POST /registry/heartbeats"
    r"|POST /registry/vms/<vm_id>/heartbeat"
    r"|PATCH /registry/vms/<vm_id>"
    r"|POST /bootloader/report"
)
# Responses that contain a secret in clear.
SHOW_SECRETS = re.compile(r"(GET|HEAD) /vers-config/resolve/<name>")
NAMED_GROUP = re.compile(r"\(\?P<(\w+)>[^)]*\)")
CONVERTER = re.compile(r"<\w+:(\w+)>")


def route_of(request: HttpRequest) -> str:
    """Return the readable route without values, such as `/lieutenants/<name>/send`."""
    match = request.resolver_match
    return readable(match.route) if match else ""


@functools.lru_cache(maxsize=1024)
def readable(route: str) -> str:
    """Return a URL pattern without the syntax of regular expressions."""
    named = CONVERTER.sub(r"<\1>", NAMED_GROUP.sub(r"<\1>", route.replace("(?:/|$)", "/")))
    plain = re.sub(r"[\^$]|/\?|\\", "", named)
    return "/" + plain.lstrip("/")


def target_of(request: HttpRequest) -> str:
    """Return the target of a request: the values in its path, and the action of an admin list."""
    match = request.resolver_match
    if match is None:
        return ""
    words = [str(value) for name, value in match.kwargs.items() if name != "secret"]
    if match.app_names == ["admin"] and (match.url_name or "").endswith("_changelist"):
        words += _posted(request, "action")[:1] + _posted(request, "_selected_action")
    return " ".join(words)


def _posted(request: HttpRequest, name: str) -> list[str]:
    try:
        return request.POST.getlist(name)
    except UnreadablePostError:
        # The client hung up, or the edge did not read its body.
        return []


def name_made(response: Any) -> str:
    """Return the name or id of the object in an API response; empty if there is none."""
    data = getattr(response, "data", None)
    if not isinstance(data, dict):
        return ""
    return next((str(data[key]) for key in ("name", "vmId", "id") if data.get(key)), "")


def is_recorded(request: HttpRequest) -> bool:
    """Return whether a request that was not refused gets a record."""
    match = request.resolver_match
    if match is None or request.method in ("GET", "HEAD", "OPTIONS", "TRACE"):
        return False
    if match.view_name in OWN_RECORDS or match.view_name in READS:
        return False
    route = f"{request.method} {route_of(request)}"
    # One route registers and refreshes; with a token it refreshes.
    is_refresh = route == "POST /registry/vms" and "Authorization" in request.headers
    return not HIGH_VOLUME.fullmatch(route) and not is_refresh


def shows_secret(request: HttpRequest, status: int) -> bool:
    """Return whether the response contains a secret in clear."""
    route = f"{request.method} {route_of(request)}"
    return status == 200 and bool(SHOW_SECRETS.fullmatch(route))
