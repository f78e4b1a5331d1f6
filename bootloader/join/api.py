"""The API for VMs that join the fleet: join, reports, downloads, token renewal.

A join token authorizes join, report and dist only; a node token reports about its own VM and renews
itself. The root token and operators may read everything.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.http import FileResponse
from django.urls import re_path
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bootloader.exceptions import JoinRefused
from bootloader.join import downloads, reports
from bootloader.join import tokens as join_tokens
from bootloader.join.serializers import (
    ConfirmedTokenResponse,
    DownloadsResponse,
    JoinBody,
    JoinedResponse,
    RenewedTokenResponse,
    ReportBody,
    ReportedResponse,
    ReportResponse,
    ReportsQuery,
    report_json,
)
from bootloader.models.joining import BootReport, JoinToken
from reef_site.common.api.endpoints import endpoint
from reef_site.common.api.serializers import list_of
from reef_site.common.errors import Forbidden
from reef_site.common.json_format import RepairingJSONParser
from reef_site.common.text import to_storable
from registry import heartbeats, liveness
from vmtree import permissions, tokens
from vmtree.models import Node

UNAUTHORIZED = {401: "Unauthorized — this join token was used at 2026-11-22T06:21:09.098Z"}
ONLY_JOIN = "a join token opens join, report and dist, and nothing else"
NODES_ONLY = "token: only a node changes its own token, and shows it"
NOT_PACKAGED = {503: "this reef cannot be packed for VMs: hatchling says: no space left"}


@dataclass(frozen=True)
class JoinTokenCaller:
    """A caller with a join token; `text` is the token itself."""

    text: str
    is_authenticated: bool = True
    is_active: bool = True

    def __str__(self) -> str:
        return "a VM that wants to join"


class JoinTokenAuthentication(BaseAuthentication):
    """Recognize join tokens by their prefix. Each view checks whether the token is valid."""

    def authenticate(self, request: Request) -> tuple[JoinTokenCaller, str] | None:
        """Return the caller; None if the token is not a join token."""
        text = _bearer(request)
        return (JoinTokenCaller(text), "join") if text.startswith(join_tokens.PREFIX) else None

    def authenticate_header(self, request: Request) -> str:
        """Return the scheme for the WWW-Authenticate header."""
        return "Bearer"


class MemberView(APIView):
    """Base of the views below. Join tokens are accepted only where `for_joiners` is set."""

    checks_permission = True
    allows_join_tokens = False
    authentication_classes = [JoinTokenAuthentication, *APIView.authentication_classes]

    def check_permissions(self, request: Request) -> None:
        """Also reject join tokens where `for_joiners` is not set. Raise Forbidden."""
        super().check_permissions(request)
        if isinstance(request.user, JoinTokenCaller) and not self.allows_join_tokens:
            raise Forbidden(ONLY_JOIN)

    def handle_exception(self, error: Exception) -> Response:
        """Render an invalid join token as a 401 with the reason."""
        if isinstance(error, JoinRefused) and error.status == 401:
            error = AuthenticationFailed(f"Unauthorized — {error}")
        return super().handle_exception(error)


class Join(MemberView):
    """`POST /bootloader/join`"""

    allows_join_tokens = True

    @endpoint(
        body=JoinBody,
        response=JoinedResponse,
        errors={
            **UNAUTHORIZED,
            403: "this join token is for another VM than 'vm-8'",
            409: "'vm-7' cannot join: parentVmId: there is no VM 'vm-1'",
        },
        lenient=True,
    )
    def post(self, request: Request) -> Response:
        """Exchange a join token for a node token."""
        caller = request.user
        if not isinstance(caller, JoinTokenCaller):
            raise Forbidden("join: needs a join token; the one that was shown is of another kind")
        facts = join_tokens.JoinFacts(**JoinBody.parse(request), remote=_client_address(request))
        node, token = join_tokens.redeem(caller.text, facts)
        row = JoinToken.objects.get(digest=tokens.digest_of(caller.text))
        interval = heartbeats.fleet.interval_ms()
        response = {
            "vmId": node.vm_id,
            "name": node.name,
            "token": token,
            # The VM reached us at this address, so it will reach us there again.
            "infraUrl": request.build_absolute_uri("/").rstrip("/"),
            "nextBeatInMs": liveness.next_heartbeat_ms(interval),
            "profile": row.profile,
            "role": row.role,
            "category": node.category,
            "parentVmId": node.parent_vm_id,
            "reefConfig": row.reef_config,
        }
        return Response(response, headers={"Cache-Control": "no-store"})


class Report(MemberView):
    """`POST /bootloader/report`"""

    allows_join_tokens = True
    parser_classes = (RepairingJSONParser,)

    @endpoint(
        body=ReportBody,
        response=ReportedResponse,
        errors={**UNAUTHORIZED, 403: "report: needs the token of the VM that it is about"},
    )
    def post(self, request: Request) -> Response:
        """Store a report about one step of a boot, for the VM that the token belongs to."""
        vm_id = _vm_of(request)
        row = reports.record(vm_id, reports.StepReport(**ReportBody.parse(request)))
        response = {"vmId": vm_id, "run": row.run, "step": row.step, "status": row.status}
        return Response(response)


class Reports(MemberView):
    """`GET /bootloader/reports/<vm id>`"""

    @endpoint(
        query=ReportsQuery,
        response=list_of("reports", ReportResponse),
        errors={403: ONLY_JOIN},
    )
    def get(self, request: Request, vm_id: str) -> Response:
        """Return the steps of the VM's latest boot in order, or of `?run=`; at most `?limit=`."""
        query = ReportsQuery.parse(request)
        vm_id = to_storable(vm_id)
        permissions.check(request.user, permissions.Action.READ_MACHINES, vm_id)
        if run := query["run"]:
            rows = BootReport.objects.filter(vm_id=vm_id, run=run).order_by("began_at", "id")
        else:
            rows = BootReport.objects.newest_run(vm_id)
        found = [report_json(row) for row in rows[: query["limit"]]]
        return Response({"reports": found, "count": len(found)})


class DownloadList(MemberView):
    """`GET /bootloader/dist/`"""

    allows_join_tokens = True

    @endpoint(response=DownloadsResponse, errors={**UNAUTHORIZED, **NOT_PACKAGED})
    def get(self, request: Request) -> Response:
        """List the files with sizes and SHA-256."""
        _check_download(request)
        newest = downloads.current()
        aliases = {file.name: name for name, file in newest.aliases.items()}
        files = [
            {
                "name": file.name,
                "alias": aliases.get(file.name),
                "sha256": file.sha256,
                "size": file.size,
            }
            for file in newest.files
        ]
        return Response({"version": newest.version, "files": files, "count": len(files)})


class Download(MemberView):
    """`GET /bootloader/dist/<name>`"""

    allows_join_tokens = True

    @endpoint(
        response="application/octet-stream",
        errors={
            **UNAUTHORIZED,
            404: "there is no file 'reef.whl' here; the list is at /bootloader/dist/",
            **NOT_PACKAGED,
        },
    )
    def get(self, request: Request, name: str) -> FileResponse:
        """Return one file."""
        _check_download(request)
        file = downloads.find(name)
        response = FileResponse(file.open("rb"), as_attachment=True, filename=file.name)
        response["Content-Type"] = "application/octet-stream"
        response["Reef-SHA256"] = downloads.sha256_of(file)
        return response


class OwnToken(MemberView):
    """`POST /bootloader/token`: a node renews its token in two requests, so that none is lost."""

    @endpoint(response=RenewedTokenResponse, errors={403: NODES_ONLY}, ignores_unknown=True)
    def post(self, request: Request) -> Response:
        """Return a new token of the calling node, while the current one stays valid.

        Send `/bootloader/token/confirm` with the new one. A node that loses a response starts
        again.
        """
        node = _calling_node(request)
        new_token = tokens.renew(node, _bearer(request), made_by=str(request.user))
        response = {"vmId": node.vm_id, "token": new_token}
        return Response(response, headers={"Cache-Control": "no-store"})


class ConfirmToken(MemberView):
    """`POST /bootloader/token/confirm`: the second request of a renewal."""

    @endpoint(response=ConfirmedTokenResponse, errors={403: NODES_ONLY}, ignores_unknown=True)
    def post(self, request: Request) -> Response:
        """Revoke all tokens of the calling node except the one of this request."""
        node = _calling_node(request)
        return Response({"vmId": node.vm_id, "revoked": tokens.confirm(node, _bearer(request))})


# -- requests ------------------------------------------------------------------------------------


def _bearer(request: Request) -> str:
    """Return the token of the Authorization header; empty if there is none."""
    header = get_authorization_header(request).decode("latin-1")
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _client_address(request: Request) -> str:
    """Return the client's address: the last entry of X-Forwarded-For, added by the edge."""
    forwarded: str = request.META.get("HTTP_X_FORWARDED_FOR", "")
    return forwarded.rpartition(",")[2].strip() or request.META.get("REMOTE_ADDR", "") or ""


def _vm_of(request: Request) -> str:
    """Return the id of the VM that the token belongs to. Raise JoinRefused, Forbidden."""
    caller = request.user
    if isinstance(caller, JoinTokenCaller):
        token = join_tokens.find_valid(caller.text, remote=_client_address(request), just_used=True)
        return token.vm_id
    node: Node | None = permissions.node_of(caller)
    if node is None:
        raise Forbidden("report: needs the token of the VM that it is about")
    return node.vm_id


def _calling_node(request: Request) -> Node:
    """Return the node that the token belongs to. Raise Forbidden."""
    node = permissions.node_of(request.user)
    if node is None:
        raise Forbidden(NODES_ONLY)
    return node


def _check_download(request: Request) -> None:
    """Raise JoinRefused for an invalid join token. All other callers may download."""
    if isinstance(request.user, JoinTokenCaller):
        join_tokens.find_valid(request.user.text, remote=_client_address(request))


urlpatterns = [
    re_path(r"^join/?$", Join.as_view(), name="bootloader-join"),
    re_path(r"^report/?$", Report.as_view(), name="bootloader-report"),
    re_path(r"^reports/(?P<vm_id>.+?)/?$", Reports.as_view(), name="bootloader-reports"),
    re_path(r"^dist/?$", DownloadList.as_view(), name="bootloader-dist"),
    re_path(r"^dist/(?P<name>[^/]+)$", Download.as_view(), name="bootloader-download"),
    re_path(r"^token/?$", OwnToken.as_view(), name="bootloader-token"),
    re_path(r"^token/confirm/?$", ConfirmToken.as_view()),
]
