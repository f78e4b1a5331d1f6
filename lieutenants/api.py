"""API of lieutenants. Its wire contract is fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django.http import HttpResponse
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bootloader.grants import budgets
from lieutenants import services, views
from lieutenants.api_base import (
    LOST_RACE,
    NO_AGENT,
    NOT_FOUND,
    action_response,
    check_command_permission,
    hold_until_rest,
    idempotency_key,
)
from lieutenants.changes.api import ChangesActions
from lieutenants.membership import vm_id_of
from lieutenants.messages.api import MessageActions
from lieutenants.models import Lieutenant
from lieutenants.requests import (
    BriefQuery,
    ChangesBody,
    CreateBody,
    ForceBody,
    LieutenantsQuery,
    NextSignBody,
    SessionBody,
    StopQuery,
    WaitQuery,
    due_of,
    to_changes,
    to_creation,
)
from lieutenants.serializers import (
    AbortedResponse,
    CreatedResponse,
    DestroyedResponse,
    LieutenantResponse,
    PausedResponse,
    RestartedResponse,
    ResultsResponse,
    ResumedResponse,
    lieutenants_json,
)
from lieutenants.transcript.api import TranscriptActions
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.serializers import list_of
from reef_site.common.errors import NotFound
from reef_site.common.request_names import takes_anything
from vmtree import permissions


def _start(name: str, request: Request, begin: Callable[..., Lieutenant]) -> Lieutenant:
    """Start the agent with `begin`, in its session or in a new one."""
    if SessionBody.parse(request)["session"] == "new":
        return services.new_session(name, actor=request.user, begin=begin)
    return begin(name, actor=request.user)


class LieutenantViewSet(MessageActions, TranscriptActions, ChangesActions):
    """`/lieutenant/lieutenants`; `services` checks the permissions of everything that changes."""

    checks_permission = True
    lookup_field = "name"
    named_parts: ClassVar = {"name": services.name_of}
    lookup_value_regex = "[^/]+"

    @endpoint(query=LieutenantsQuery, response=list_of("lieutenants", LieutenantResponse))
    def list(self, request: Request) -> Response:
        """Return active lieutenants, newest first.

        `?status=` filters, `?brief=true` omits long texts.
        """
        query, rows = LieutenantsQuery.parse(request), Lieutenant.objects.active()
        if query["status"]:
            rows = rows.filter(status=query["status"])
        found = lieutenants_json(rows, caller=request.user, brief=query["brief"])
        return Response({"lieutenants": found, "count": len(found)})

    @endpoint(
        query=WaitQuery,
        body=CreateBody,
        response=CreatedResponse,
        status=201,
        more_responses={200: CreatedResponse},
        errors={
            409: "Lieutenant 'ada' already exists. Destroy it first or use a different name.",
            **NO_AGENT,
        },
    )
    def create(self, request: Request) -> Response:
        """Create a lieutenant; `?wait=<seconds>` waits until it has started.

        A repeated request with the same `Idempotency-Key` header returns 200 and the same one.
        """
        seconds = WaitQuery.parse(request)["wait"]
        creation = to_creation(CreateBody.parse(request))
        lieutenant, is_new = services.create_once(
            creation, actor=request.user, key=idempotency_key(request)
        )
        facts = lieutenants_json([lieutenant], caller=request.user)[0]
        if note := budgets.warning_of(vm_id_of(lieutenant)):
            facts["note"] = note
        response = Response(facts, status=201 if is_new else 200)
        return hold_until_rest(response, lieutenant, seconds)

    @endpoint(query=BriefQuery, response=LieutenantResponse, errors=NOT_FOUND)
    def retrieve(self, request: Request, name: str) -> Response:
        """Return a lieutenant; `?brief=true` omits long texts."""
        brief = BriefQuery.parse(request)["brief"]
        found = [services.find(name)]
        return Response(lieutenants_json(found, caller=request.user, brief=brief)[0])

    @endpoint(
        query=WaitQuery,
        body=ChangesBody,
        response=LieutenantResponse,
        errors={**NOT_FOUND, **LOST_RACE, **NO_AGENT},
    )
    def partial_update(self, request: Request, name: str) -> Response:
        """Change model, restart policy or limits; `{"restart": true}` applies them at once."""
        check_command_permission(request, name)
        query, body = WaitQuery.parse(request), ChangesBody.parse(request)
        found = services.adjust(
            name, to_changes(body), actor=request.user, restart_now=body["restart"]
        )
        facts = lieutenants_json([found], caller=request.user)[0]
        return hold_until_rest(Response(facts), found, query["wait"])

    @endpoint(
        query=StopQuery,
        response=DestroyedResponse,
        more_responses={202: DestroyedResponse},
        errors={**NOT_FOUND, **LOST_RACE},
    )
    def destroy(self, request: Request, name: str) -> Response:
        """Destroy a lieutenant; repeating that returns 200 again."""
        seconds = StopQuery.parse(request)["wait"]
        detail = services.destroy(name, actor=request.user)
        lieutenant = Lieutenant.objects.filter(name=name).first()
        if lieutenant is None:
            return Response({"destroyed": True, "detail": detail})
        return action_response(lieutenant, "destroyed", seconds, detail=detail)

    @action(detail=True, methods=["post"])
    @endpoint(
        query=StopQuery,
        body=ForceBody,
        response=PausedResponse,
        more_responses={202: PausedResponse},
        errors={**NOT_FOUND, **LOST_RACE},
    )
    def pause(self, request: Request, name: str) -> Response:
        """Stop the agent and keep its session; `{"force": true}` does so even while it works."""
        check_command_permission(request, name)
        seconds = StopQuery.parse(request)["wait"]
        force = ForceBody.parse(request)["force"]
        lieutenant = services.pause(name, actor=request.user, force=force)
        return action_response(lieutenant, "paused", seconds)

    @action(detail=True, methods=["post"])
    @endpoint(
        query=WaitQuery,
        body=SessionBody,
        response=ResumedResponse,
        more_responses={202: ResumedResponse},
        errors={**NOT_FOUND, **LOST_RACE, **NO_AGENT},
    )
    def resume(self, request: Request, name: str) -> Response:
        """Start the agent in its session, or in a new one with `{"session": "new"}`."""
        check_command_permission(request, name)
        seconds = WaitQuery.parse(request)["wait"]
        lieutenant = _start(name, request, services.resume)
        return action_response(lieutenant, "resumed", seconds)

    @action(detail=True, methods=["post"])
    @endpoint(
        query=WaitQuery,
        body=SessionBody,
        response=RestartedResponse,
        more_responses={202: RestartedResponse},
        errors={**NOT_FOUND, **LOST_RACE, **NO_AGENT},
    )
    def restart(self, request: Request, name: str) -> Response:
        """Stop and start the agent; `{"session": "new"}` begins a new session."""
        check_command_permission(request, name)
        seconds = WaitQuery.parse(request)["wait"]
        lieutenant = _start(name, request, services.restart)
        return action_response(lieutenant, "restarted", seconds)

    @action(detail=True, methods=["post"])
    @endpoint(response=AbortedResponse, more_responses={202: AbortedResponse}, errors=NOT_FOUND)
    def abort(self, request: Request, name: str) -> Response:
        """Abort the running answer."""
        return action_response(services.abort(name, actor=request.user), "aborted", 0)


class NextSign(APIView):
    """`PUT` and `DELETE /lieutenant/lieutenants/<name>/next-sign`"""

    checks_permission = True
    named_parts: ClassVar = {"name": services.name_of}

    @endpoint(body=NextSignBody, response=LieutenantResponse, errors=NOT_FOUND)
    def put(self, request: Request, name: str) -> Response:
        """Declare when the next sign is due, and why; until then, silence is not reported.

        An agent declares this for itself and for those below it. The end of the turn ends it. If
        the sign does not come, “Needs you” shows the reason. Limits of models and tools still hold.
        """
        services.lookup.permitted(name, request.user, permissions.Action.WRITE)
        body = NextSignBody.parse(request)
        found = services.declare_sign(
            name, due_of(body), body["reason"], grace=body.get("grace"), actor=request.user
        )
        return Response(lieutenants_json([found], caller=request.user, brief=True)[0])

    @endpoint(response=LieutenantResponse, errors=NOT_FOUND)
    def delete(self, request: Request, name: str) -> Response:
        """Withdraw what was declared about the next sign."""
        found = services.withdraw_sign(name, actor=request.user)
        return Response(lieutenants_json([found], caller=request.user, brief=True)[0])


class DestroyAll(APIView):
    """`POST /lieutenant/lieutenants/destroy-all`"""

    checks_permission = True

    @endpoint(response=ResultsResponse)
    def post(self, request: Request) -> Response:
        """Destroy all active lieutenants, or those below the calling node; return one line each."""
        return Response({"results": services.destroy_all(actor=request.user)})


class Discover(APIView):
    """`POST /lieutenant/lieutenants/discover`. Not for nodes."""

    checks_permission = True

    @endpoint(response=ResultsResponse)
    def post(self, request: Request) -> Response:
        """Follow agents again that were lost; return one line each."""
        return Response({"results": services.discover(actor=request.user)})


class Panel(APIView):
    """`GET /lieutenant/_panel`"""

    @endpoint(response="text/html")
    def get(self, request: Request) -> HttpResponse:
        """Return an HTML table for other pages."""
        return HttpResponse(views.panel_html(request._request))


class UnknownPath(APIView):
    """Answers 404 to unknown paths of this app; 401 without authentication."""

    @takes_anything
    def _refuse(self, request: Request, **_: Any) -> Response:
        raise NotFound("not found")

    get = post = put = patch = delete = _refuse
