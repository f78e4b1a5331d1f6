"""The one DRF router, and how errors are answered."""

from __future__ import annotations

import logging
from typing import Any

from django.db import InterfaceError, OperationalError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from lieutenants.api import LieutenantViewSet
from reef_site.auth import NO_HEADER
from reef_site.common import disk
from vmtree.exceptions import FleetError

logger = logging.getLogger(__name__)

router = SimpleRouter()
# A trailing slash works like none.
router.trailing_slash = "/?"
router.register("lieutenant/lieutenants", LieutenantViewSet, basename="lieutenant")


def answer_error(error: Exception, context: dict[str, Any]) -> Response:
    """Every error as `{"error": "<what is wrong>"}` with a status that fits."""
    if isinstance(error, FleetError):
        return Response({"error": str(error)}, status=error.status)
    if isinstance(error, Http404):
        return Response({"error": "not found"}, status=404)
    if isinstance(error, exceptions.NotAuthenticated):
        return Response({"error": NO_HEADER}, status=401, headers={"WWW-Authenticate": "Bearer"})
    if isinstance(error, exceptions.AuthenticationFailed):
        headers = {"WWW-Authenticate": "Bearer"}
        return Response({"error": str(error.detail)}, status=401, headers=headers)
    if isinstance(error, exceptions.MethodNotAllowed):
        return Response({"error": "method not allowed"}, status=405)
    if isinstance(error, exceptions.APIException):
        return Response({"error": str(error.detail)}, status=error.status_code)
    if problem := disk.problem_of(error):
        logger.error("%s (%s)", problem, error)
        return Response({"error": problem}, status=507)
    if isinstance(error, OperationalError | InterfaceError):
        logger.error("the database does not answer: %s", error)
        return Response({"error": "the database does not answer; try again soon"}, status=503)
    logger.error("unexpected error", exc_info=error)
    return Response({"error": "internal service error"}, status=500)
