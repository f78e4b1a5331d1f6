"""The door for VMs that come into the fleet: join, reports, downloads, tokens of their own.

A join token opens join, report and dist and nothing else; a node's token reports about its own VM
and renews itself. The root token and operators may look at all of it.
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

from bootloader import dist, joining, reports
from bootloader.exceptions import JoinRefused
from bootloader.models.joining import BootReport, JoinToken
from reef_site.common.errors import Forbidden
from reef_site.common.json_format import RepairingJSONParser
from reef_site.common.request_names import takes, takes_anything
from reef_site.common.request_values import body_of, query_limit, text_of
from reef_site.common.text import to_storable
from registry import beats, liveness
from vmtree import authority, permissions, tokens
from vmtree.models import Node

MOST_ROWS = 500


@dataclass(frozen=True)
class Joiner:
    """A VM with a join token; `text` is the token itself."""

    text: str
    is_authenticated: bool = True
    is_active: bool = True

    def __str__(self) -> str:
        return "a VM that wants to join"


class JoinTokenAuthentication(BaseAuthentication):
    """Knows a join token when it sees one; whether it is good is asked by each door for itself."""

    def authenticate(self, request: Request) -> tuple[Joiner, str] | None:
        """The caller; None for whoever shows something else."""
        text = _bearer(request)
        return (Joiner(text), "join") if text.startswith(joining.PREFIX) else None

    def authenticate_header(self, request: Request) -> str:
        """What a 401 asks for."""
        return "Bearer"


class MemberView(APIView):
    """Base of the views below. Join tokens come in only where `for_joiners` says so."""

    asks_authority = True
    for_joiners = False
    authentication_classes = [JoinTokenAuthentication, *APIView.authentication_classes]

    def check_permissions(self, request: Request) -> None:
        """As everywhere, and no future member where only members may be. Raises Forbidden."""
        super().check_permissions(request)
        if isinstance(request.user, Joiner) and not self.for_joiners:
            raise Forbidden("a join token opens join, report and dist, and nothing else")

    def handle_exception(self, error: Exception) -> Response:
        """A token that is not good is a 401 as any other, with the reason."""
        if isinstance(error, JoinRefused) and error.status == 401:
            error = AuthenticationFailed(f"Unauthorized — {error}")
        return super().handle_exception(error)


class Join(MemberView):
    """`POST /bootloader/join`"""

    for_joiners = True

    @takes(body=("hostname", "address", "agentVersion", "nonce", "vmId"), lenient=True)
    def post(self, request: Request) -> Response:
        """Trade a join token for a token of the VM's own."""
        caller = request.user
        if not isinstance(caller, Joiner):
            raise Forbidden("join: needs a join token; the one that was shown is of another kind")
        node, token = joining.trade(caller.text, _facts(request))
        row = JoinToken.objects.get(digest=tokens.digest_of(caller.text))
        interval = beats.fleet.interval_ms()
        answer = {
            "vmId": node.vm_id,
            "name": node.name,
            "token": token,
            # The address at which it found us is the one at which it will find us.
            "infraUrl": request.build_absolute_uri("/").rstrip("/"),
            "nextBeatInMs": liveness.next_beat_ms(interval),
            "profile": row.profile,
            "role": row.role,
            "category": node.category,
            "parentVmId": node.parent_vm_id,
            "reefConfig": row.reef_config,
        }
        return Response(answer, headers={"Cache-Control": "no-store"})


class Report(MemberView):
    """`POST /bootloader/report`"""

    for_joiners = True
    parser_classes = (RepairingJSONParser,)

    @takes(body=reports.FIELDS)
    def post(self, request: Request) -> Response:
        """Note how one step of a boot stands; about the VM that the token belongs to."""
        vm_id = _vm_of(request)
        row = reports.note(vm_id, reports.said_of(request.data))
        answer = {"vmId": vm_id, "run": row.run, "step": row.step, "status": row.status}
        return Response(answer)


class Reports(MemberView):
    """`GET /bootloader/reports/<vm id>`"""

    @takes(query=("run", "limit"))
    def get(self, request: Request, vm_id: str) -> Response:
        """The steps of its last boot in their order, or of `?run=`; `?limit=` of them."""
        limit = query_limit(request, most=MOST_ROWS, default=MOST_ROWS)
        vm_id = to_storable(vm_id)
        permissions.check(request.user, permissions.Action.READ_MACHINES, vm_id)
        if run := to_storable(request.query_params.get("run", "")):
            rows = BootReport.objects.filter(vm_id=vm_id, run=run).order_by("began_at", "id")
        else:
            rows = BootReport.objects.newest_run(vm_id)
        found = [row.as_json() for row in rows[:limit]]
        return Response({"reports": found, "count": len(found)})


class Index(MemberView):
    """`GET /bootloader/dist/`"""

    for_joiners = True

    def get(self, request: Request) -> Response:
        """What there is, with sizes and SHA-256."""
        _check_download(request)
        newest = dist.current()
        plain = {file.name: name for name, file in newest.plain.items()}
        files = [
            {
                "name": file.name,
                "alias": plain.get(file.name),
                "sha256": file.sha256,
                "size": file.size,
            }
            for file in newest.files
        ]
        return Response({"version": newest.version, "files": files, "count": len(files)})


class Download(MemberView):
    """`GET /bootloader/dist/<name>`"""

    for_joiners = True

    def get(self, request: Request, name: str) -> FileResponse:
        """One file."""
        _check_download(request)
        file = dist.find(name)
        answer = FileResponse(file.open("rb"), as_attachment=True, filename=file.name)
        answer["Content-Type"] = "application/octet-stream"
        answer["Reef-SHA256"] = dist.sha256_of(file)
        return answer


class OwnToken(MemberView):
    """`POST /bootloader/token`: a node changes its token, in two moves, so that none is lost.

    The first gives a new token while the one that was shown stays good. The second, `confirm`,
    is made with the new one and revokes all others. Whoever loses an answer begins again.
    """

    @takes_anything
    def post(self, request: Request, confirm: str = "") -> Response:
        """The new token, or how many were revoked."""
        node = authority.node_of(request.user)
        if node is None:
            raise Forbidden("token: only a node changes its own token, and shows it")
        if confirm:
            return Response({"vmId": node.vm_id, "revoked": tokens.confirm(node, _bearer(request))})
        fresh = tokens.renew(node, _bearer(request), made_by=str(request.user))
        answer = {"vmId": node.vm_id, "token": fresh}
        return Response(answer, headers={"Cache-Control": "no-store"})


# -- who asks, and what is said ------------------------------------------------------------------


def _bearer(request: Request) -> str:
    """The token of the request's header; empty if there is none."""
    header = get_authorization_header(request).decode("latin-1")
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _remote(request: Request) -> str:
    """Where the request came from; the edge, which stands before us, says so last."""
    said: str = request.META.get("HTTP_X_FORWARDED_FOR", "")
    return said.rpartition(",")[2].strip() or request.META.get("REMOTE_ADDR", "") or ""


def _vm_of(request: Request) -> str:
    """The VM that the shown token belongs to. Raises JoinRefused, Forbidden."""
    caller = request.user
    if isinstance(caller, Joiner):
        token = joining.opened_by(caller.text, remote=_remote(request), just_used=True)
        return token.vm_id
    node: Node | None = authority.node_of(caller)
    if node is None:
        raise Forbidden("report: needs the token of the VM that it is about")
    return node.vm_id


def _check_download(request: Request) -> None:
    """Members, future members, the root token and operators may fetch. Raises JoinRefused."""
    if isinstance(request.user, Joiner):
        joining.opened_by(request.user.text, remote=_remote(request))


def _facts(request: Request) -> joining.Facts:
    """What the body says of the VM. Raises BadInput."""
    body = body_of(request)

    def text(name: str, length: int) -> str:
        return text_of(body.get(name), name, length=length, optional=True, accepts=str.isprintable)

    return joining.Facts(
        hostname=text("hostname", 255),
        address=text("address", 1000),
        agent_version=text("agentVersion", 100),
        nonce=text("nonce", 200),
        vm_id=text("vmId", 255),
        remote=_remote(request),
    )


urlpatterns = [
    re_path(r"^join/?$", Join.as_view(), name="bootloader-join"),
    re_path(r"^report/?$", Report.as_view(), name="bootloader-report"),
    re_path(r"^reports/(?P<vm_id>.+?)/?$", Reports.as_view(), name="bootloader-reports"),
    re_path(r"^dist/?$", Index.as_view(), name="bootloader-dist"),
    re_path(r"^dist/(?P<name>[^/]+)$", Download.as_view(), name="bootloader-download"),
    re_path(r"^token/?$", OwnToken.as_view(), name="bootloader-token"),
    re_path(r"^token/confirm/?$", OwnToken.as_view(), {"confirm": "yes"}),
]
