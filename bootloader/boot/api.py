"""The API of profiles, boot scripts and cloud-init.

A script or cloud-init for a named VM contains a join token. A node may request one for a VM that
comes below it, or is below it already; the root token and operators for any VM.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.urls import re_path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bootloader.boot import cloud_init, generation, plan_builder, profiles, render, user_data
from bootloader.boot.plan import BootPlan
from bootloader.boot.serializers import (
    CloudInitBody,
    CloudInitQuery,
    CloudInitResponse,
    CloudQuery,
    GeneratedResponse,
    NewCloudInitQuery,
    ProfileResponse,
    ProfilesResponse,
    ScriptBody,
    ScriptQuery,
    UserDataBody,
    profile_json,
)
from bootloader.join import tokens as join_tokens
from reef_site.common.api.endpoints import endpoint
from reef_site.common.ids import new_secret
from vmtree import permissions

Json = dict[str, Any]
UNKNOWN = {404: "Unknown VM type: swarms"}
NOT_PLANNED = {
    409: "REEF_SSH_USER (store, subtree of web-1): has not the form that it must have",
    503: "this reef cannot be packed for VMs: hatchling says: no space left",
}
CLOUD_CONFIG = "text/cloud-config"
GZIP, ZIP, ISO = "application/gzip", "application/zip", "application/x-iso9660-image"
MIME = "multipart/mixed"


class Profiles(APIView):
    """`GET /bootloader/profiles`"""

    @endpoint(response=ProfilesResponse)
    def get(self, request: Request) -> Response:
        """Return all profiles by type, the four built-in ones first."""
        found = profiles.all().values()
        return Response({"profiles": {each.type: profile_json(each) for each in found}})


class OneProfile(APIView):
    """`GET /bootloader/profiles/:type`"""

    @endpoint(response=ProfileResponse, errors=UNKNOWN)
    def get(self, request: Request, type: str) -> Response:  # noqa: A002
        """Return one profile."""
        return Response(profile_json(profiles.get(type)))


class Generate(APIView):
    """`POST /bootloader/generate`"""

    checks_permission = True

    @endpoint(body=ScriptBody, response=GeneratedResponse, status=201, errors=NOT_PLANNED)
    def post(self, request: Request) -> Response:
        """Return a VM's boot script, with a join token."""
        response = generation.generate(ScriptBody.parse(request), by=request.user)
        return Response(response, status=201, headers={"Cache-Control": "no-store"})


class Script(APIView):
    """`GET /bootloader/script/:type`"""

    @endpoint(response="text/x-shellscript", errors={**UNKNOWN, **NOT_PLANNED})
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

    @endpoint(
        query=CloudInitQuery,
        response=CLOUD_CONFIG,
        errors={403: f"rule: {permissions.RULE}. vm-7 may not write vm-8", **NOT_PLANNED},
    )
    def get(self, request: Request) -> HttpResponse:
        """Return user-data for the VM of the query, as text; nothing is stored and no token is
        issued.

        Secrets are masked; POST returns the usable text.
        """
        script = ScriptQuery.parse(request)
        generation.check_permission(request.user, script)
        plan = render.masked(plan_builder.make_plan(**script, join_token=render.MASK))
        cloud = CloudQuery.parse(request)
        text = cloud_init.user_data(plan, whole=cloud["whole"])
        if cloud["for"]:
            user_data.check_fits(len(text.encode()), cloud["for"])
        return _text(text)

    @endpoint(
        query=NewCloudInitQuery,
        body=CloudInitBody,
        response=(CLOUD_CONFIG, GZIP, MIME, ZIP, ISO),
        more_responses={201: CloudInitResponse},
        errors=NOT_PLANNED,
    )
    def post(self, request: Request) -> HttpResponse:
        """Return user-data with a join token: as text, `?form=json` with meta-data, or as NoCloud
        seed.

        `?form=seed` is a zip of the seed's two files, `?form=iso` a CD image of them. `?form=gzip`
        is the text compressed, `?form=mime` a multi-part that ends with the body's own `userData`.
        """
        query = NewCloudInitQuery.parse(request)
        form, whole = query["form"], query["whole"]
        own = _own_part(request) if form == "mime" else ""
        if query["for"]:
            # Before a join token is issued.
            user_data.check_fits(_size_of(request, form, own, whole=whole), query["for"])
        plan = generation.plan_with_token(ScriptBody.parse(request), by=request.user)
        if form == "gzip":
            content = user_data.gzipped(cloud_init.user_data(plan, whole=whole))
            return _download(content, plan, "user-data.gz", GZIP)
        if form == "mime":
            text = user_data.multipart(cloud_init.user_data(plan, whole=whole), own)
            return _text(text, MIME)
        if form == "seed":
            return _download(cloud_init.seed(plan), plan, "zip", ZIP)
        if form == "iso":
            return _download(cloud_init.seed_image(plan), plan, "iso", ISO)
        if form == "json":
            return _json(plan, whole=whole)
        return _text(cloud_init.user_data(plan, whole=whole))


# -- requests ------------------------------------------------------------------------------------


def _own_part(request: Request) -> str:
    """Return the operator's own user-data, to be appended to ours. Raise BadInput."""
    text: str = UserDataBody.parse(request)["user_data"]
    if text:
        user_data.kind_of(text)
    return text


def _size_of(request: Request, form: str, own: str, *, whole: bool) -> int:
    """Return the size of the user-data in bytes, as it will be with a join token."""
    script = ScriptBody.parse(request)
    generation.check_permission(request.user, script)
    # As long as a token, and equally incompressible.
    token = new_secret(join_tokens.PREFIX)
    text = cloud_init.user_data(plan_builder.make_plan(**script, join_token=token), whole=whole)
    if form == "gzip":
        return len(user_data.gzipped(text)) + 8
    return len((user_data.multipart(text, own) if form == "mime" else text).encode())


# -- responses -----------------------------------------------------------------------------------


def _text(text: str, kind: str = CLOUD_CONFIG) -> HttpResponse:
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
