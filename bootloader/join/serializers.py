"""Requests and responses of the API for VMs that join, in the wire format."""

from __future__ import annotations

import re
from typing import Any

from bootloader.models.joining import ReportStatus
from reef_site.common.api.fields import (
    AnyText,
    Choice,
    NullableText,
    Text,
    Timestamp,
    WholeNumber,
)
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, OrderedFields, Query, ResponseBody
from registry.models import Role
from vmtree.fields import Dna
from vmtree.models import Category

Json = dict[str, Any]
MAX_ROWS = 500
MAX_DURATION_MS = 10**12
# The limits of the column.
MIN_EXIT_STATUS, MAX_EXIT_STATUS = -(1 << 31), (1 << 31) - 1

# -- responses -----------------------------------------------------------------------------------


class JoinedResponse(ResponseBody):
    """The VM's identity in the fleet, and its own token."""

    vmId = Text()
    name = Text()
    token = Text()
    infraUrl = Text(help_text="The root's address.")
    nextBeatInMs = WholeNumber()
    profile = Text()
    role = Choice(Role.values)
    category = Choice(Category.values)
    parentVmId = Text(allow_null=True)
    reefConfig = Dna()

    example = {
        "vmId": "vm-7",
        "name": "builder",
        "token": "reef_Zm9yIHRoZSBkb2N1bWVudGF0aW9u",
        "infraUrl": "https://reef.example",
        "nextBeatInMs": 30_000,
        "profile": "swarm",
        "role": "worker",
        "category": "swarm_vm",
        "parentVmId": "vm-1",
        "reefConfig": {"organs": ["store"], "capabilities": []},
    }


class ReportedResponse(ResponseBody):
    vmId = Text()
    run = Text()
    step = Text()
    status = Choice(ReportStatus.values)

    example = {"vmId": "vm-7", "run": "r1", "step": "packages", "status": "ok"}


class ReportResponse(ResponseBody):
    """The latest report about one step of a boot."""

    vmId = Text(source="vm_id")
    run = Text()
    step = Text()
    status = Choice(ReportStatus.values)
    durationMs = WholeNumber(source="duration_ms", allow_null=True)
    exitStatus = WholeNumber(
        source="exit_status", least=MIN_EXIT_STATUS, most=MAX_EXIT_STATUS, allow_null=True
    )
    output = Text(help_text="Its end, with secrets masked.")
    beganAt = Timestamp(source="began_at")
    reportedAt = Timestamp(source="at")


report_json = object_reader(ReportResponse)


class DownloadResponse(ResponseBody):
    """A file for VMs. A name never refers to different content; an alias does."""

    name = Text()
    alias = Text(allow_null=True)
    sha256 = Text()
    size = WholeNumber(help_text="Bytes.")


class DownloadsResponse(ResponseBody):
    version = Text(help_text="The version of the wheel.")
    files = DownloadResponse(many=True)
    count = WholeNumber()


class RenewedTokenResponse(ResponseBody):
    vmId = Text()
    token = Text()

    example = {"vmId": "vm-7", "token": "reef_Zm9yIHRoZSBkb2N1bWVudGF0aW9u"}


class ConfirmedTokenResponse(ResponseBody):
    vmId = Text()
    revoked = WholeNumber(help_text="How many older tokens there were.")

    example = {"vmId": "vm-7", "revoked": 1}


# -- requests ------------------------------------------------------------------------------------


class Fact(NullableText):
    """A printable text about the VM; absent ones are empty."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(accepts=str.isprintable, default="", **kwargs)


class JoinBody(Body):
    """The VM's description of itself."""

    hostname = Fact(length=255)
    address = Fact(length=1000)
    agentVersion = Fact(length=100, source="agent_version")
    nonce = Fact(length=200, help_text="A random text. The same one again repeats this join.")
    vmId = Fact(length=255, source="vm_id", help_text="If given, it must be that of the token.")

    example = {"hostname": "builder", "address": "192.0.2.7", "nonce": "d1c8"}


class Pattern(Text):
    """Text of a given form, which must be there."""

    def __init__(self, form: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.form = re.compile(form)

    def to_internal_value(self, data: Any) -> str:
        if data is None or data == "":
            self.refuse("is required", "required")
        if not isinstance(data, str) or not self.form.fullmatch(data):
            self.refuse("has characters or a length that it cannot have")
        return data

    def schema(self) -> Json:
        return {"type": "string", "pattern": f"^{self.form.pattern}$"}


class ReportBody(OrderedFields, Body):
    """A report about one step of a boot."""

    run = Pattern("[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", help_text="The same for all of one boot.")
    step = Pattern("[a-z0-9][a-z0-9._-]{0,39}")
    status = Choice(ReportStatus.values)
    durationMs = WholeNumber(
        most=MAX_DURATION_MS, source="duration_ms", required=False, allow_null=True
    )
    exitStatus = WholeNumber(
        least=MIN_EXIT_STATUS,
        most=MAX_EXIT_STATUS,
        source="exit_status",
        required=False,
        allow_null=True,
    )
    output = NullableText(
        strip=False, accepts=lambda _text: True, default="", help_text="Only its end is kept."
    )

    checked_first = ("status", "output")
    example = {"run": "r1", "step": "packages", "status": "ok", "durationMs": 1500}


class ReportsQuery(Query):
    run = AnyText(default="", help_text="Absent: the latest boot.")
    limit = WholeNumber(least=1, most=MAX_ROWS, default=MAX_ROWS)
