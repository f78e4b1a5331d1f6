"""The API of commands on machines: run, list, look at and cancel them."""

from __future__ import annotations

from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bootloader.commands import services
from bootloader.commands.serializers import (
    CommandBody,
    CommandResponse,
    CommandsQuery,
    OneCommandResponse,
    command_json,
)
from bootloader.models import MachineCommand
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.fields import Text
from reef_site.common.api.serializers import list_of
from reef_site.common.paging import take_page_by_key

FORBIDDEN = {403: "rule: an account reads the fleet; only operators change it"}
NO_MACHINE = {404: "there is no such machine"}
NOT_FOUND = {404: "there is no such command"}


class Commands(APIView):
    """`GET, POST /bootloader/commands`"""

    checks_permission = True

    @endpoint(
        query=CommandsQuery,
        response=list_of("commands", CommandResponse, next_page=Text),
        errors={**FORBIDDEN, **NO_MACHINE},
    )
    def get(self, request: Request) -> Response:
        """List commands with their output, newest first: those on one machine, or on all."""
        services.check_any(request.user)
        query = CommandsQuery.parse(request)
        place = None
        if query["vm_id"] or query["ssh_host"]:
            place = services.find_place(
                vm_id=query["vm_id"] or "", ssh_host=query["ssh_host"] or "", by=request.user
            )
        rows = services.commands(place, by=request.user).select_related("ssh_host")
        found, following = take_page_by_key(
            rows, query["limit"], query["cursor"], newest_first=True
        )
        shown = [command_json(row) for row in found]
        return Response({"commands": shown, "count": len(shown), "next": following})

    @endpoint(
        body=CommandBody,
        response=OneCommandResponse,
        status=202,
        errors={
            **FORBIDDEN,
            **NO_MACHINE,
            409: "50 commands run already: wait for one, or cancel it",
        },
    )
    def post(self, request: Request) -> Response:
        """Run a command on a machine; its end and its output are at `Location`."""
        services.check_any(request.user)
        body = CommandBody.parse(request)
        place = services.find_place(vm_id=body["vm_id"], ssh_host=body["ssh_host"], by=request.user)
        row = services.run(place, body["command"], body["limit_seconds"], by=request.user)
        _note_for_audit(request, row)
        response = _answer(row, status=202)
        response["Location"] = f"/bootloader/commands/{row.pk}"
        return response


class OneCommand(APIView):
    """`GET /bootloader/commands/<id>`"""

    checks_permission = True

    @endpoint(response=OneCommandResponse, errors={**FORBIDDEN, **NOT_FOUND})
    def get(self, request: Request, command_id: str) -> Response:
        """Return a command with its output so far."""
        return _answer(services.find(command_id, by=request.user))


class Cancel(APIView):
    """`POST /bootloader/commands/<id>/cancel`"""

    checks_permission = True

    @endpoint(
        response=OneCommandResponse,
        status=202,
        errors={**FORBIDDEN, **NOT_FOUND, 409: "the command has ended: timed out"},
    )
    def post(self, request: Request, command_id: str) -> Response:
        """End a command, with all processes of its group, within seconds."""
        return _answer(services.cancel(command_id, by=request.user), status=202)


def _answer(row: MachineCommand, status: int = 200) -> Response:
    return Response({"command": command_json(row)}, status=status)


def _note_for_audit(request: Request, row: MachineCommand) -> None:
    for name, value in services.audit_facts(row).items():
        setattr(request._request, name, value)


_ONE = r"^commands/(?P<command_id>[0-9A-Za-z]{1,26})"

urlpatterns = [
    re_path(r"^commands/?$", Commands.as_view(), name="bootloader-commands"),
    re_path(rf"{_ONE}/?$", OneCommand.as_view()),
    re_path(rf"{_ONE}/cancel/?$", Cancel.as_view()),
]
