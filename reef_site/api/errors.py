"""The exception handler of the API."""

from __future__ import annotations

import logging
import math
from typing import Any

from django.db import InterfaceError, OperationalError
from django.http import Http404, UnreadablePostError
from rest_framework import exceptions
from rest_framework.response import Response

from reef_site.api.authentication import NO_HEADER
from reef_site.common import disk
from reef_site.common.api.fields import problem_of
from reef_site.common.error_responses import api_error
from reef_site.common.errors import Forbidden, ReefError
from reef_site.edge.unread_body import TRY_AGAIN, was_withheld

logger = logging.getLogger(__name__)


def answer_error(error: Exception, context: dict[str, Any]) -> Response:
    """Render any exception as `{"error": "<problem>"}` with its HTTP status."""
    if isinstance(error, Forbidden):
        request = context["request"]
        # Quoted: paths and ids come from the caller.
        logger.info("refused %s %a: %a", request.method, request.path, str(error))
        # The audit log reads it.
        request._request.forbidden = error
    if isinstance(error, ReefError):
        return api_error(error)
    if isinstance(error, Http404):
        return Response({"error": "not found"}, status=404)
    if isinstance(error, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        anonymous = isinstance(error, exceptions.NotAuthenticated)
        text = NO_HEADER if anonymous else str(error.detail)
        return Response({"error": text}, status=401, headers={"WWW-Authenticate": "Bearer"})
    if isinstance(error, exceptions.MethodNotAllowed):
        return Response({"error": "method not allowed"}, status=405)
    if isinstance(error, exceptions.Throttled):
        return _answer_throttled(error)
    if isinstance(error, exceptions.ValidationError):
        return Response({"error": problem_of(error.detail)}, status=400)
    if isinstance(error, exceptions.APIException):
        return Response({"error": str(error.detail)}, status=error.status_code)
    return _answer_unexpected(error)


def _answer_throttled(error: exceptions.Throttled) -> Response:
    seconds = math.ceil(getattr(error, "wait", None) or 1)
    text = f"too many requests with this token; try again in {seconds} s"
    return Response({"error": text}, status=429, headers={"Retry-After": str(seconds)})


def _answer_unexpected(error: Exception) -> Response:
    """Render an error that neither the caller nor one of our rules caused."""
    if problem := disk.problem_of(error):
        logger.error("%s (%s)", problem, error)
        return Response({"error": problem}, status=507)
    if isinstance(error, OperationalError | InterfaceError):
        logger.error("the database does not answer: %s", error)
        return Response({"error": "the database does not answer; try again soon"}, status=503)
    if was_withheld(error):
        return Response({"error": TRY_AGAIN}, status=503, headers={"Retry-After": "1"})
    if isinstance(error, UnreadablePostError):
        return Response({"error": "body: did not come whole"}, status=400)
    logger.error("unexpected error", exc_info=error)
    return Response({"error": "internal service error"}, status=500)
