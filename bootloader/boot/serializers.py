"""Requests and responses of the API for profiles, boot scripts and cloud-init."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bootloader.boot import catalog, plan_builder, profiles, user_data
from bootloader.boot.plan import File, Profile
from bootloader.exceptions import UnknownProfile
from bootloader.serializers import FalsyIsAbsent, OptionalText, TextList
from reef_site.common.api.fields import Choice, Flag, JsonValue, ListOf, Text, WholeNumber
from reef_site.common.api.rows import object_reader
from reef_site.common.api.serializers import Body, OrderedFields, Query, ResponseBody
from reef_site.common.errors import BadInput
from registry.models import Role
from vmtree import names as vm_names
from vmtree.fields import VMAlias
from vmtree.models import Category

Json = dict[str, Any]
MAX_TEXT = 255
MAX_NAMES = 200
MAX_FILES = 1000
MAX_USER_DATA = 256 << 10
FORMATS = ("text", "json", "gzip", "mime", "seed", "iso")
REQUIRED = ("vmId", "name", "type")
_ADDRESS = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]+"
)

# -- responses -----------------------------------------------------------------------------------


class ProfileFileResponse(ResponseBody):
    """A file of a profile, without its content."""

    path = Text()
    liesAt = Text(help_text="Its path on VMs with root login.")
    liesAtWithoutRoot = Text()
    mode = Text(help_text="Octal, as in `0644`.")
    bytes = WholeNumber()


class ProfileSizeResponse(ResponseBody):
    """The intended size of VMs; null falls back to config."""

    vcpus = WholeNumber(allow_null=True)
    memoryMib = WholeNumber(source="memory_mib", allow_null=True)
    diskMib = WholeNumber(source="disk_mib", allow_null=True)


class ProfileResponse(ResponseBody):
    """A kind of VM. The order of the fields is fixed; new ones come last."""

    type = Text()
    organs = ListOf(Text(), most=MAX_NAMES)
    capabilities = ListOf(Text(), most=MAX_NAMES)
    installPiVers = Flag(source="install_pi_vers")
    description = Text()
    category = Choice(Category.values)
    role = Choice(Role.values)
    agent = Flag()
    ownReef = Flag(source="own_reef")
    packages = ListOf(Text(), most=MAX_NAMES)
    builtIn = Flag(source="built_in")
    files = ProfileFileResponse(many=True, required=False, help_text="Of custom profiles.")
    size = ProfileSizeResponse(required=False, help_text="Of custom profiles.")

    example = {
        "type": "swarm",
        "organs": ["store", "cron"],
        "capabilities": ["vers-vm", "vers-vm-copy", "vers-swarm"],
        "installPiVers": True,
        "description": "Swarm worker — minimal reef + pi-vers for fleet task execution.",
        "category": "swarm_vm",
        "role": "worker",
        "agent": True,
        "ownReef": False,
        "packages": [],
        "builtIn": True,
    }


class ProfilesByType(JsonValue):
    def schema(self) -> Json:
        profile = {"$ref": f"#/components/schemas/{ProfileResponse.__name__}"}
        return {"type": "object", "additionalProperties": profile}


class ProfilesResponse(ResponseBody):
    """The profiles by type, the built-in ones first."""

    profiles = ProfilesByType()

    example = {"profiles": {"swarm": ProfileResponse.example}}


class GeneratedResponse(ResponseBody):
    """A boot script with its join token."""

    vmId = Text()
    name = Text()
    type = Text()
    profile = ProfileResponse()
    script = Text()
    joinToken = Text()

    example = {
        "vmId": "vm-7",
        "name": "builder",
        "type": "swarm",
        "profile": ProfileResponse.example,
        "script": "#!/bin/sh\n…",
        "joinToken": "reefjoin_Zm9yIHRoZSBkb2N1bWVudGF0aW9u",
    }


class CloudLimitResponse(ResponseBody):
    """The limit of a cloud on user-data, null without one."""

    cloud = Choice(tuple(user_data.LIMITS))
    bytes = WholeNumber(allow_null=True)
    fits = Flag()


class CloudInitResponse(ResponseBody):
    """User-data and meta-data with `?form=json`."""

    vmId = Text()
    name = Text()
    type = Text()
    userData = Text()
    bytes = WholeNumber(help_text="The size of the user-data.")
    limits = CloudLimitResponse(many=True)
    metaData = Text()
    joinToken = Text()

    example = {
        "vmId": "vm-7",
        "name": "builder",
        "type": "swarm",
        "userData": "#cloud-config\n…",
        "bytes": 9_120,
        "limits": [{"cloud": "ec2", "bytes": 16_384, "fits": True}],
        "metaData": "instance-id: vm-7\nlocal-hostname: builder\n",
        "joinToken": "reefjoin_Zm9yIHRoZSBkb2N1bWVudGF0aW9u",
    }


_read_profile = object_reader(ProfileResponse)
_read_size = object_reader(ProfileSizeResponse)


def profile_json(profile: Profile) -> Json:
    """Return a profile as JSON."""
    data = _read_profile(profile)
    if profile.built_in:
        del data["files"], data["size"]
    else:
        data["files"] = [_file_json(file) for file in profile.files]
        data["size"] = _read_size(profile.size)
    return data


def _file_json(file: File) -> Json:
    is_absolute = file.path.startswith("/")
    return {
        "path": file.path,
        "liesAt": file.path if is_absolute else f"/opt/reef/{file.path}",
        "liesAtWithoutRoot": file.path if is_absolute else f"~/.reef/{file.path}",
        "mode": f"{file.mode:04o}",
        "bytes": len(file.text.encode()),
    }


# -- requests ------------------------------------------------------------------------------------


class VMName(Text):
    def to_internal_value(self, data: Any) -> str:
        name = super().to_internal_value(data)
        vm_names.check(name)
        return name


class KnownProfile(Text):
    """The type of a profile; its value is the profile."""

    def to_internal_value(self, data: Any) -> Any:
        try:
            return profiles.get(super().to_internal_value(data))
        except UnknownProfile as error:
            raise BadInput(f"{error}. Valid: {', '.join(error.known)}", "type") from None


class KnownNames(TextList):
    """A list of known names; in a query they are repeated, or separated by commas."""

    def __init__(self, known: tuple[str, ...], **kwargs: Any) -> None:
        names = Text(length=MAX_NAMES, strip=False)
        super().__init__(names, most=MAX_NAMES, default=tuple, **kwargs)
        self.known = known

    def to_internal_value(self, data: Any) -> list[Any]:
        if data is None:
            return []
        if self.is_in_query:
            data = [name for part in data for name in part.split(",") if name]
        names = super().to_internal_value(data)
        catalog.check(names, self.known, self.field_name or "")
        return names


class ParentVM(FalsyIsAbsent, VMAlias):
    """The parent, or none."""


class RootUrl(FalsyIsAbsent, Text):
    def to_internal_value(self, data: Any) -> str:
        return plan_builder.normalize_root_url(super().to_internal_value(data))


class HostAddress(FalsyIsAbsent, Text):
    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if not _ADDRESS.fullmatch(text):
            self.refuse("must be a host name or an IP address")
        return text


class ScriptFields(OrderedFields):
    """The description of a script's VM; the values are arguments of `plan_builder.make_plan`."""

    vmId = Text(length=MAX_TEXT, strip=False, source="vm_id")
    name = VMName(length=MAX_TEXT, strip=False)
    type = KnownProfile(length=MAX_TEXT, strip=False, source="profile")
    parentVmId = ParentVM(length=MAX_TEXT, strip=False, source="parent_vm_id", default=None)
    extraOrgans = KnownNames(catalog.EXTRA_ORGANS, source="organs")
    extraCapabilities = KnownNames(catalog.CAPABILITIES, source="capabilities")
    roofReefUrl = RootUrl(
        length=plan_builder.MAX_URL_LENGTH,
        strip=False,
        source="roof_url",
        default="",
        help_text="The root's address. Absent: as configured.",
    )
    address = HostAddress(length=MAX_TEXT, strip=False, default="")

    checked_first = (*REQUIRED, "extraOrgans", "extraCapabilities")

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        if not all(data.get(name) for name in REQUIRED):
            raise BadInput("vmId, name, and type are required")
        values = super().to_internal_value(data)
        extras = tuple(values.pop("organs")), tuple(values.pop("capabilities"))
        return {**values, "profile": values["profile"].with_extras(*extras)}


class ScriptBody(ScriptFields, Body):
    example = {"vmId": "vm-7", "name": "builder", "type": "swarm", "parentVmId": "vm-1"}


class ScriptQuery(ScriptFields, Query):
    pass


class CloudQuery(Query):
    whole = Flag(default=False, help_text="With the constant part, which VMs load otherwise.")
    for_ = Choice(tuple(user_data.LIMITS), help_text="Refuse what exceeds the limit of this cloud.")


class CloudInitQuery(ScriptQuery, CloudQuery):
    pass


class FormQuery(Query):
    form = Choice(FORMATS, default="text")


class NewCloudInitQuery(FormQuery, CloudQuery):
    pass


class UserDataBody(Body):
    userData = OptionalText(
        length=MAX_USER_DATA,
        strip=False,
        source="user_data",
        default="",
        help_text="With `?form=mime`: a part of your own.",
    )


class CloudInitBody(ScriptBody, UserDataBody):
    pass
