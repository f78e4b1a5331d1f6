"""API of unknown agents: `/lieutenant/unknown-agents`. Not for nodes."""

from __future__ import annotations

from django.urls import re_path
from rest_framework import request as rest
from rest_framework.response import Response
from rest_framework.views import APIView

from lieutenants.unknown_agents import services
from lieutenants.unknown_agents.models import Request, UnknownAgent
from vmtree import permissions
from vmtree.permissions import Action


class UnknownAgents(APIView):
    """`GET /lieutenant/unknown-agents`"""

    checks_permission = True

    def get(self, request: rest.Request) -> Response:
        """Return the unknown agents of all hosts, newest first."""
        permissions.check(request.user, Action.COMMAND, None)
        found = [row.json for row in UnknownAgent.objects.all()[:1000]]
        return Response({"unknownAgents": found, "count": UnknownAgent.objects.count()})


class RequestAction(APIView):
    """`POST /lieutenant/unknown-agents/<run>/{take-up,end}`"""

    checks_permission = True

    def post(self, request: rest.Request, run: str, verb: str) -> Response:
        """Request that the agent is followed again or ended; its host does so within seconds."""
        row = services.request_action(run, Request(verb), actor=request.user)
        return Response(row.json, status=202)


urlpatterns = [
    re_path(r"^lieutenant/unknown-agents/?$", UnknownAgents.as_view()),
    re_path(
        r"^lieutenant/unknown-agents/(?P<run>[^/]+)/(?P<verb>take-up|end)/?$",
        RequestAction.as_view(),
    ),
]
