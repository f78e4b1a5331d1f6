"""Tools over HTTP: `GET /tools` lists them, `POST /tools/<name>` calls one."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from rest_framework.exceptions import ValidationError
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from reef_site.api.authentication import BearerAuthentication
from reef_site.audit import log
from reef_site.audit.models import Action as Audited
from reef_site.common import request_names
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Flag, JsonValue, Text, bad_input
from reef_site.common.api.serializers import Body, ResponseBody, list_of
from reef_site.common.errors import Forbidden, NotFound, ReefError
from reef_site.common.tools import Tool, ToolResult, declared_tools
from vmtree import permissions
from vmtree.permissions import Action, Relation

Json = dict[str, Any]
# The header by which the edge holds a response.
WAIT_HEADER = "Reef-Wait"
# Arguments that name what a tool acts on, for the audit log.
SUBJECTS = ("name", "vmId", "id", "key", "to", "question")


class ToolResponse(ResponseBody):
    """A tool that the caller may use."""

    name = Text()
    description = Text()
    inputSchema = JsonValue("object", help_text="JSON Schema of the arguments.")
    readOnly = Flag(help_text="It changes nothing.")
    destructive = Flag(help_text="It ends or removes something for good.")

    example = {
        "name": "reef_lt_pause",
        "description": "Pause a lieutenant.",
        "inputSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
        "readOnly": False,
        "destructive": False,
    }


class ArgumentsBody(Body):
    """The arguments, as the tool's `inputSchema` describes them."""

    example = {"name": "ada"}


class ResultResponse(ResponseBody):
    """The result of a call. If the action failed, `text` is the error."""

    text = Text(help_text="For the model.")
    details = JsonValue("object", required=False, help_text="The same as data.")
    isError = Flag()

    example = {
        "text": 'Lieutenant "ada" paused. Use reef_lt_resume to wake it.',
        "details": {"paused": True},
        "isError": False,
    }


class Tools(APIView):
    """`GET /tools`"""

    @endpoint(response=list_of("tools", ToolResponse))
    def get(self, request: Request) -> Response:
        """List the tools that the caller may use."""
        tools = [_json(each) for each in declared_tools().values() if may_use(request.user, each)]
        return Response({"tools": tools, "count": len(tools)})


class ToolCall(APIView):
    """`POST /tools/<name>`. Tools call services, which check the permissions."""

    checks_permission = True

    def get_permissions(self) -> list[Any]:
        """Let accounts that may only read call tools that change nothing."""
        tool = declared_tools().get(self.kwargs.get("name", ""))
        return [IsAuthenticated()] if tool and tool.read_only else [*super().get_permissions()]

    @endpoint(
        body=ArgumentsBody,
        response=ResultResponse,
        errors={404: "There is no tool 'reef_lt_stop'", 400: "name is required"},
        ignores_unknown=True,
    )
    def post(self, request: Request, name: str) -> Response:
        """Call a tool with the arguments in the body.

        An action that fails is 200 with `isError`, since the tool was called; its `text` is
        `Error: ` and the sentence that the API has for this failure.
        """
        tool = declared_tools().get(name)
        if tool is None:
            raise NotFound(f"There is no tool '{name[:100]}'")
        request_names.check(request.query_params, (), place="query")
        given: Any = request.data
        arguments = tool.parse(given)
        try:
            result = tool.call(request.user, arguments)
        except (ReefError, ValidationError) as error:
            refusal = error if isinstance(error, ReefError) else bad_input(error)
            _record(request._request, tool, given, refusal)
            return Response({"text": f"Error: {refusal}", "isError": True})
        _record(request._request, tool, given)
        return _answer(result)


class MessageBody(Body):
    """A JSON-RPC message of the Model Context Protocol."""

    example = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


class Mcp(APIView):
    """`POST /mcp`: checks the caller for the edge, which answers in place of the response here."""

    # A session could be used by pages of others, which browsers let send requests here.
    authentication_classes = [BearerAuthentication]
    permission_classes = [IsAuthenticated]

    @endpoint(
        body=MessageBody,
        response="text/event-stream",
        errors={403: "origin: https://else.example may not use this reef"},
        ignores_unknown=True,
    )
    def post(self, request: Request) -> Response:
        """Speak the Model Context Protocol: streamable HTTP, without sessions."""
        check_origin(request._request)
        # The tools that it calls have records of their own.
        request._request.is_audited = True  # type: ignore[attr-defined]
        return Response({"caller": str(request.user)})


def check_origin(request: HttpRequest) -> None:
    """Raise Forbidden if a page of somebody else's makes this request, as the protocol demands."""
    origin = request.headers.get("Origin", "")
    own = {f"{scheme}://{request.get_host()}" for scheme in ("http", "https")}
    if origin and origin not in own | set(settings.CSRF_TRUSTED_ORIGINS):
        raise Forbidden(f"origin: {origin[:200]} may not use this reef")


def may_use(caller: object, tool: Tool) -> bool:
    """Return whether there is anything on which the caller may use this tool."""
    if not tool.action:
        return tool.read_only or not permissions.is_read_only(caller)
    reach = permissions.reach_of(caller, Action(tool.action))
    return Relation.FLEET in reach if tool.on_fleet else bool(reach)


def _answer(result: ToolResult) -> Response:
    headers = {WAIT_HEADER: result.wait} if result.wait else None
    answer = {"text": result.text, "details": result.details, "isError": False}
    return Response(answer, headers=headers)


def _json(tool: Tool) -> Json:
    return {
        "name": tool.name,
        "description": tool.purpose,
        "inputSchema": tool.input_schema(),
        "readOnly": tool.read_only,
        "destructive": tool.destructive,
    }


def _record(
    request: HttpRequest, tool: Tool, arguments: Json, error: ReefError | None = None
) -> None:
    """Record a change or a refusal in the audit log, in place of the middleware."""
    request.is_audited = True  # type: ignore[attr-defined]
    subject = next((str(arguments[name]) for name in SUBJECTS if arguments.get(name)), "")
    if isinstance(error, Forbidden):
        log.record_refusal(request, error, target=f"{tool.name} {error.target or subject}".strip())
    elif not tool.read_only:
        target = f"{tool.name} {subject}".strip()
        status, reason = (error.status, str(error)) if error else (200, "")
        log.record(
            request,
            Audited.CHANGE,
            reason=reason,
            target=target,
            status=status,
            repeats=error is not None,
        )
