"""The API of profiles, boot scripts and cloud-init.

A script or cloud-init for a named VM contains a join token. A node may request one for a VM that
comes below it, or is below it already; the root token and operators for any VM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.http import HttpResponse
from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bootloader.boot import catalog, cloud_init, plan_builder, profiles, render, user_data
from bootloader.boot.plan import BootPlan, File, Profile
from bootloader.exceptions import UnknownProfile
from bootloader.join import tokens as join_tokens
from reef_site.common.errors import BadInput
from reef_site.common.ids import new_secret
from reef_site.common.request_names import takes
from reef_site.common.request_values import body_of, query_choice, query_flag, text_of
from vmtree import aliases, permissions
from vmtree import names as vm_names
from vmtree.models import Node

Json = dict[str, Any]
MAX_TEXT = 255
MAX_NAMES = 200
MAX_USER_DATA = 256 << 10
_ADDRESS = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]+"
)
# Fields that describe the VM of a script.
SCRIPT_FIELDS = (
    *("vmId", "name", "type", "parentVmId", "extraOrgans", "extraCapabilities", "roofReefUrl"),
    "address",
)
FORMATS = ("text", "json", "gzip", "mime", "seed", "iso")


@dataclass(frozen=True)
class ScriptRequest:
    """A request for the script of one VM."""

    vm_id: str
    name: str
    profile: Profile
    parent_vm_id: str | None
    roof_url: str
    address: str = ""


class Profiles(APIView):
    """`GET /bootloader/profiles`"""

    def get(self, request: Request) -> Response:
        """Return all profiles by type, the four built-in ones first."""
        found = profiles.all().values()
        return Response({"profiles": {each.type: profile_json(each) for each in found}})


class OneProfile(APIView):
    """`GET /bootloader/profiles/:type`"""

    def get(self, request: Request, type: str) -> Response:  # noqa: A002
        """Return one profile."""
        return Response(profile_json(profiles.get(type)))


class Generate(APIView):
    """`POST /bootloader/generate`"""

    checks_permission = True

    @takes(body=SCRIPT_FIELDS)
    def post(self, request: Request) -> Response:
        """Return a VM's boot script, with a join token."""
        plan = _plan_of(request)
        response = {
            "vmId": plan.vm_id,
            "name": plan.name,
            "type": plan.profile.type,
            "profile": profile_json(plan.profile),
            "script": render.boot_script(plan),
            "joinToken": plan.join_token,
        }
        return Response(response, status=201, headers={"Cache-Control": "no-store"})


class Script(APIView):
    """`GET /bootloader/script/:type`"""

    def get(self, request: Request, type: str) -> HttpResponse:  # noqa: A002
        """Return a script that takes the VM's identity and token from its environment.

        It contains no secret: neither a token nor keys for agents.
        """
        profile = profiles.get(type)
        plan = plan_builder.make_plan(vm_id="", name="", profile=profile, secrets=False)
        return HttpResponse(render.boot_script(plan), content_type="text/x-shellscript")


class CloudInit(APIView):
    """`/bootloader/cloud-init`"""

    checks_permission = True

    @takes(query=(*SCRIPT_FIELDS, "whole", "for"))
    def get(self, request: Request) -> HttpResponse:
        """Return user-data for the VM of the query, as text; nothing is stored and no token is
        issued.

        Secrets are masked; POST returns the usable text.
        """
        script_request = _parse_request(request.query_params)
        _check_permission(request.user, script_request)
        plan = render.masked(_plan(script_request, join_token=render.MASK))
        text = cloud_init.user_data(plan, whole=query_flag(request, "whole"))
        _check_size(request, len(text.encode()))
        return _text(text)

    @takes(query=("form", "whole", "for"), body=(*SCRIPT_FIELDS, "userData"))
    def post(self, request: Request) -> HttpResponse:
        """Return user-data with a join token: as text, `?form=json` with meta-data, or as NoCloud
        seed.

        `?form=seed` is a zip of the seed's two files, `?form=iso` a CD image of them. `?form=gzip`
        is the text compressed, `?form=mime` a multi-part that ends with the body's own `userData`.
        """
        form = query_choice(request, "form", FORMATS) or "text"
        whole = query_flag(request, "whole")
        own = _own_part(request) if form == "mime" else ""
        _check_size(request, _size_of(request, form, own, whole=whole))
        plan = _plan_of(request)
        if form == "gzip":
            content = user_data.gzipped(cloud_init.user_data(plan, whole=whole))
            return _download(content, plan, "user-data.gz", "application/gzip")
        if form == "mime":
            text = user_data.multipart(cloud_init.user_data(plan, whole=whole), own)
            return _text(text, "multipart/mixed")
        if form == "seed":
            return _download(cloud_init.seed(plan), plan, "zip", "application/zip")
        if form == "iso":
            return _download(
                cloud_init.seed_image(plan), plan, "iso", "application/x-iso9660-image"
            )
        if form == "json":
            return _json(plan, whole=whole)
        return _text(cloud_init.user_data(plan, whole=whole))


def profile_json(profile: Profile) -> Json:
    """Return a profile as JSON. The order of the fields is fixed; newer ones come last."""
    result = {
        "type": profile.type,
        "organs": list(profile.organs),
        "capabilities": list(profile.capabilities),
        "installPiVers": profile.install_pi_vers,
        "description": profile.description,
        "category": profile.category,
        "role": profile.role,
        "agent": profile.agent,
        "ownReef": profile.own_reef,
        "packages": list(profile.packages),
        "builtIn": profile.built_in,
    }
    if not profile.built_in:
        result["files"] = [_file_json(file) for file in profile.files]
        size = profile.size
        result["size"] = {
            "vcpus": size.vcpus,
            "memoryMib": size.memory_mib,
            "diskMib": size.disk_mib,
        }
    return result


def _file_json(file: File) -> Json:
    """Return a file without its content, and its path on VMs with and without root login."""
    place = file.path if file.path.startswith("/") else f"/opt/reef/{file.path}"
    user = file.path if file.path.startswith("/") else f"~/.reef/{file.path}"
    return {
        "path": file.path,
        "liesAt": place,
        "liesAtWithoutRoot": user,
        "mode": f"{file.mode:04o}",
        "bytes": len(file.text.encode()),
    }


# -- requests ------------------------------------------------------------------------------------


def _plan_of(request: Request) -> BootPlan:
    """Return the plan for the request's VM, with a fresh join token."""
    script_request = _parse_request(body_of(request))
    _check_permission(request.user, script_request)
    # Config contains keys of model providers, which a node could not read otherwise.
    secrets = permissions.may(request.user, permissions.Action.READ_SECRETS, None)
    plan = _plan(script_request, secrets=secrets)
    return plan_builder.with_token(plan, by=request.user)


def _plan(script_request: ScriptRequest, *, join_token: str = "", secrets: bool = True) -> BootPlan:
    return plan_builder.make_plan(
        secrets=secrets,
        vm_id=script_request.vm_id,
        name=script_request.name,
        profile=script_request.profile,
        parent_vm_id=script_request.parent_vm_id,
        roof_url=script_request.roof_url,
        join_token=join_token,
        address=script_request.address,
    )


def _check_permission(caller: object, script_request: ScriptRequest) -> None:
    """Raise Forbidden unless the caller may add this VM there.

    A script lets its holder become that VM: replacing a known VM needs command of it, a new VM
    needs a place at or below the caller's own.
    """
    known = Node.objects.filter(vm_id=script_request.vm_id).first()
    if known is not None:
        # Whoever holds the script can become that node.
        permissions.check(caller, permissions.Action.ISSUE_TOKENS, known)
    permissions.check(caller, "write", script_request.parent_vm_id if known is None else known)


def _parse_request(data: Mapping[str, Any]) -> ScriptRequest:
    """Parse the request. Raise BadInput."""
    vm_id, name, type_ = (data.get(field) for field in ("vmId", "name", "type"))
    if not vm_id or not name or not type_:
        raise BadInput("vmId, name, and type are required")
    texts = [_text_of(value, field) for value, field in ((vm_id, "vmId"), (name, "name"))]
    vm_names.check(texts[1])
    try:
        profile = profiles.get(_text_of(type_, "type"))
    except UnknownProfile as error:
        raise BadInput(f"{error}. Valid: {', '.join(error.known)}", "type") from None
    organs, capabilities = _names(data, "extraOrgans"), _names(data, "extraCapabilities")
    catalog.check(organs, catalog.EXTRA_ORGANS, "extraOrgans")
    catalog.check(capabilities, catalog.CAPABILITIES, "extraCapabilities")
    parent = data.get("parentVmId")
    roof_url = data.get("roofReefUrl")
    return ScriptRequest(
        vm_id=texts[0],
        name=texts[1],
        profile=profile.with_extras(organs, capabilities),
        parent_vm_id=aliases.resolve(_text_of(parent, "parentVmId")) if parent else None,
        roof_url=plan_builder.normalize_root_url(_text_of(roof_url, "roofReefUrl", 2000))
        if roof_url
        else "",
        address=_address(data),
    )


def _address(data: Mapping[str, Any]) -> str:
    """Return a host name or IP address; empty if there is none. Raise BadInput."""
    text = _text_of(data.get("address") or "", "address")
    if text and not _ADDRESS.fullmatch(text):
        raise BadInput("address: must be a host name or an IP address", "address")
    return text


def _text_of(value: object, field: str, length: int = MAX_TEXT) -> str:
    return text_of(value, field, length=length, strip=False)


def _names(data: Mapping[str, Any], field: str) -> tuple[str, ...]:
    """Return a list of texts; queries repeat the parameter or use commas. Raise BadInput."""
    value = data.get(field)
    if value is None:
        return ()
    if isinstance(value, str) and hasattr(data, "getlist"):
        value = [word for part in data.getlist(field) for word in part.split(",") if word]
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise BadInput(f"{field}: must be a list of text", field)
    if not all(isinstance(name, str) for name in value):
        raise BadInput(f"{field}: must be a list of text", field)
    return tuple(_text_of(name, field, 200) for name in value)


# -- responses -----------------------------------------------------------------------------------


def _own_part(request: Request) -> str:
    """Return the operator's own user-data, to be appended to ours. Raise BadInput."""
    data = body_of(request)
    text = _text_of(data.get("userData") or "", "userData", MAX_USER_DATA)
    if text:
        user_data.kind_of(text)
    return text


def _size_of(request: Request, form: str, own: str, *, whole: bool) -> int:
    """Return the size of the user-data in bytes, before a join token is issued."""
    if not request.query_params.get("for"):
        return 0
    script_request = _parse_request(body_of(request))
    _check_permission(request.user, script_request)
    # As long as a token, and equally incompressible.
    text = cloud_init.user_data(
        _plan(script_request, join_token=new_secret(join_tokens.PREFIX)), whole=whole
    )
    if form == "gzip":
        return len(user_data.gzipped(text)) + 8
    return len((user_data.multipart(text, own) if form == "mime" else text).encode())


def _check_size(request: Request, size: int) -> None:
    """Raise BadInput if the limit of the cloud in `?for=` is exceeded."""
    if cloud := request.query_params.get("for"):
        user_data.check_fits(size, cloud)


def _text(text: str, kind: str = "text/cloud-config") -> HttpResponse:
    response = HttpResponse(text, content_type=f"{kind}; charset=utf-8")
    response["Cache-Control"] = "no-store"
    return response


def _json(plan: BootPlan, *, whole: bool) -> Response:
    text = cloud_init.user_data(plan, whole=whole)
    size = len(text.encode())
    response = {
        "vmId": plan.vm_id,
        "name": plan.name,
        "type": plan.profile.type,
        "userData": text,
        "bytes": size,
        "limits": user_data.limits_of(size),
        "metaData": cloud_init.meta_data(plan),
        "joinToken": plan.join_token,
    }
    return Response(response, status=201, headers={"Cache-Control": "no-store"})


def _download(content: bytes, plan: BootPlan, ending: str, kind: str) -> HttpResponse:
    response = HttpResponse(content, content_type=kind)
    name = f"{cloud_init.host_name(plan)}-seed.{ending}"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Cache-Control"] = "no-store"
    return response


urlpatterns = [
    re_path(r"^profiles/?$", Profiles.as_view(), name="bootloader-profiles"),
    re_path(r"^profiles/(?P<type>[^/]+)/?$", OneProfile.as_view()),
    re_path(r"^generate/?$", Generate.as_view(), name="bootloader-generate"),
    re_path(r"^script/(?P<type>[^/]+)/?$", Script.as_view(), name="bootloader-script"),
    re_path(r"^cloud-init/?$", CloudInit.as_view(), name="bootloader-cloud-init"),
]
