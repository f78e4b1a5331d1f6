"""API of unknown agents: `/lieutenant/unknown-agents`. Not for nodes."""

from __future__ import annotations

from django.urls import re_path
from rest_framework import request as rest
from rest_framework.response import Response
from rest_framework.views import APIView

from lieutenants.unknown_agents import services
from lieutenants.unknown_agents.models import Request, UnknownAgent
from lieutenants.unknown_agents.serializers import UnknownAgentResponse, unknown_agent_json
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.serializers import list_of
from vmtree import permissions
from vmtree.permissions import Action


class UnknownAgents(APIView):
    """`GET /lieutenant/unknown-agents`"""

    checks_permission = True

    @endpoint(
        response=list_of("unknownAgents", UnknownAgentResponse),
        errors={403: "rule: a node commands only its descendants"},
    )
    def get(self, request: rest.Request) -> Response:
        """Return the unknown agents of all hosts and machines, newest first."""
        permissions.check(request.user, Action.COMMAND, None)
        found = [unknown_agent_json(row) for row in UnknownAgent.objects.all()[:1000]]
        return Response({"unknownAgents": found, "count": UnknownAgent.objects.count()})


class RequestAction(APIView):
    """`POST /lieutenant/unknown-agents/<run>/{take-up,end}`"""

    checks_permission = True

    @endpoint(
        response=UnknownAgentResponse,
        status=202,
        errors={404: "No such agent runs, or it is followed again"},
    )
    def post(self, request: rest.Request, run: str, verb: str) -> Response:
        """Request that the agent is followed again or ended, which happens within seconds."""
        row = services.request_action(run, Request(verb), actor=request.user)
        return Response(unknown_agent_json(row), status=202)


urlpatterns = [
    re_path(r"^lieutenant/unknown-agents/?$", UnknownAgents.as_view()),
    re_path(
        r"^lieutenant/unknown-agents/(?P<run>[^/]+)/(?P<verb>take-up|end)/?$",
        RequestAction.as_view(),
    ),
]
