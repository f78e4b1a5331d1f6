"""Middleware: content security policy, disk problems, names in paths, read-only accounts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from rest_framework.permissions import SAFE_METHODS

from reef_site.common import disk
from reef_site.common.json_format import json_response
from reef_site.common.text import to_storable
from vmtree import aliases, permissions

logger = logging.getLogger(__name__)

# Scripts and styles come from our own static files only, and never from inside a page.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "font-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)


class ContentSecurityPolicyMiddleware:
    """Set the policy on all responses that have none of their own."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response


def answer_disk_problem(request: HttpRequest, problem: str) -> HttpResponse:
    """Return a 507: a page for people, JSON for agents."""
    if "text/html" in request.headers.get("Accept", ""):
        return render(request, "507.html", {"problem": problem}, status=507)
    return json_response({"error": problem}, status=507)


class DiskProblemMiddleware:
    """Respond to errors of a full or read-only disk; the API has its own handler."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Called by Django for an error of a view."""
        problem = disk.problem_of(error)
        if not problem:
            return None
        logger.error("%s %s: %s (%s)", request.method, request.path, problem, error)
        return answer_disk_problem(request, problem)


class StorableNamesMiddleware:
    """Replace what no database can store in the parts of a path, so that they can be looked up.

    Nothing has such a name: PostgreSQL would refuse a NUL as an error.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(
        self, _request: HttpRequest, _view: object, _args: object, named: dict[str, Any]
    ) -> None:
        """Called by Django before each view."""
        for part, value in named.items():
            if isinstance(value, str):
                named[part] = to_storable(value)


class AliasesMiddleware:
    """Accept a lieutenant's `vmId` wherever a path of the API has an id.

    Views with further such path parameters map them to look-up functions in `named_parts`.
    """

    ID_PARTS = ("vm_id", "other")

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(
        self, _request: HttpRequest, view: Any, _args: object, named: dict[str, Any]
    ) -> None:
        """Called by Django before each view."""
        if not hasattr(view, "cls"):
            return
        finders = dict.fromkeys(self.ID_PARTS, aliases.resolve)
        for part, find in {**finders, **getattr(view.cls, "named_parts", {})}.items():
            if aliases.is_alias(str(named.get(part, ""))):
                try:
                    named[part] = find(named[part])
                except DatabaseError as error:
                    # The view meets the same error and reports it.
                    logger.info("the name %a cannot be looked up: %s", named[part], error)


class OperatorsMiddleware:
    """Make accounts that are not operators read-only outside of the admin.

    `api.authentication.NodePermission` does this for the API; the admin checks permissions itself.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, _args: object, _named: object) -> None:
        """Called by Django before each view. Raises PermissionDenied."""
        if request.method in SAFE_METHODS or hasattr(view, "cls"):
            return
        match = request.resolver_match
        is_allowed = match is not None and (
            "admin" in match.app_names or match.view_name in _FOR_ALL
        )
        if (
            not is_allowed
            and request.user.is_authenticated
            and permissions.is_read_only_account(request.user)
        ):
            request.refusal = f"rule: {permissions.ACCOUNTS}"  # type: ignore[attr-defined]
            raise PermissionDenied


# Sign-in, sign-out, a POST that only reads, and what changes only what this account sees.
_OWN = (
    *("preferences", "notifications:index", "notifications:channel"),
    *("notifications:act", "notifications:delete", "notifications:news"),
    *("attention-snooze", "lieutenants:read", "lieutenants:read-all"),
    *("lists:save-filter", "lists:rename-filter", "lists:delete-filter"),
    *("lists:hide-preset", "lists:show-preset"),
)
_FOR_ALL = ("signin", "signin-again", "signout", "fleet:news", *_OWN)
