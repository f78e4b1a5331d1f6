"""Record the changes and refusals among all requests that reach Django."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from reef_site.audit import log, refusals, routes
from reef_site.audit.models import Action
from reef_site.common.errors import Forbidden

logger = logging.getLogger("reef.audit")

REFUSED = (401, 403)
MAX_ERROR_BODY = 8192


class AuditMiddleware:
    """Record each request after its response; placed outside of all middleware that refuses."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        try:
            _record(request, response)
            refusals.write_if_due()
        except DatabaseError:
            logger.exception("Cannot record %s %s", request.method, routes.route_of(request))
        return response


def _record(request: HttpRequest, response: HttpResponseBase) -> None:
    status = response.status_code
    if getattr(request, "is_audited", False):
        return
    if status in REFUSED:
        forbidden = getattr(request, "forbidden", None)
        if isinstance(forbidden, Forbidden):
            log.record_refusal(request, forbidden, status=status)
        elif not _has_own_record(request):
            reason = getattr(request, "refusal", "") or _error_in(response)
            log.record(request, Action.REFUSED, reason=reason, status=status, repeats=True)
    elif routes.is_recorded(request):
        named = str(getattr(request, "audit_target", ""))
        target = named or routes.target_of(request) or routes.name_made(response)
        action = Action(getattr(request, "audit_action", Action.CHANGE))
        done = str(getattr(request, "audit_reason", ""))
        reason = _error_in(response) if status >= 400 else done
        repeats = status >= 400
        log.record(request, action, reason=reason, target=target, status=status, repeats=repeats)
    elif routes.shows_secret(request, status):
        log.record(request, Action.SECRET, status=status, repeats=True)


def _has_own_record(request: HttpRequest) -> bool:
    match = request.resolver_match
    return match is not None and match.view_name == "signin-link"


def _error_in(response: HttpResponseBase) -> str:
    """Return the error text of an API response; empty if there is none."""
    is_json = response.headers.get("Content-Type", "").startswith("application/json")
    if not is_json or not isinstance(response, HttpResponse):
        return ""
    content = response.content
    if len(content) > MAX_ERROR_BODY:
        return ""
    try:
        body = json.loads(content)
    except ValueError:
        return ""
    return str(body.get("error", "")) if isinstance(body, dict) else ""
