"""Requests for VMs: parsing and validation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bootloader import providers
from bootloader.boot import catalog, profiles
from bootloader.states import CleanupPolicy
from reef_site.common.errors import BadInput, ReefError
from reef_site.common.request_values import choice_of, number_of
from reef_site.common.text import is_storable
from versconfig import keys, values
from vmtree import aliases

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_COUNT = 100
MAX_TEXT = 255
MAX_NAMES = 200
_VERSION = keys.ALL["REEF_AGENT_VERSION"]

# Request fields in addition to the ones below.
_OTHER_FIELDS = (
    *("name", "type", "profile", "parentVmId", "provider", "commit", "labels", "extraOrgans"),
    *("extraCapabilities", "onFailure", "count", "dryRun"),
)
_TEXTS = {
    "commit": "commitId",
    "image": "image",
    "kernel": "kernel",
    "region": "region",
    "size": "size",
    "agent_version": "agentVersion",
    "roof_url": "roofReefUrl",
}
_NUMBERS = {
    "vcpus": ("vcpus", 256),
    "memory_mib": ("memoryMib", 4 << 20),
    "disk_mib": ("diskMib", 64 << 20),
}
FIELDS = (*_OTHER_FIELDS, *_TEXTS.values(), *(key for key, _ in _NUMBERS.values()))


@dataclass(frozen=True)
class ProvisionRequest:
    """A request for VMs. Empty and None values fall back to config or the profile."""

    name: str
    profile: str
    parent_vm_id: str = ""
    provider: str = ""
    commit: str = ""
    image: str = ""
    kernel: str = ""
    region: str = ""
    size: str = ""
    vcpus: int | None = None
    memory_mib: int | None = None
    disk_mib: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    extra_organs: tuple[str, ...] = ()
    extra_capabilities: tuple[str, ...] = ()
    agent_version: str = ""
    roof_url: str = ""
    on_failure: str = CleanupPolicy.KEEP
    # None is one VM with exactly this name; otherwise this many, named <name>-1 and so on.
    count: int | None = None

    def names(self) -> list[str]:
        """Return the names of the VMs in order. Raise BadInput."""
        if self.count is None:
            return [self.name]
        width = len(str(self.count))
        names = [f"{self.name}-{number:0{width}}" for number in range(1, self.count + 1)]
        return [_name(name) for name in names]

    def stored(self) -> dict[str, Any]:
        """Return the values that are stored as JSON beside the row's columns; `of_row` reads
        them.
        """
        columns = {"name", "profile", "parent_vm_id", "provider", "on_failure", "count"}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in columns and value not in ("", None, (), {})
        }


def request_of_row(row: Any) -> ProvisionRequest:
    """Return the request for the single VM of a provisioning's row."""
    stored: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in row.wish.items()
    }
    return ProvisionRequest(
        name=row.name,
        profile=row.profile,
        parent_vm_id=row.parent_vm_id,
        provider=row.provider,
        on_failure=row.on_failure,
        **stored,
    )


def parse_request(body: Mapping[str, Any]) -> ProvisionRequest:
    """Parse a request's JSON. Raise BadInput."""
    given: dict[str, Any] = {
        name: _text(body.get(key), key) for name, key in _TEXTS.items() if body.get(key)
    }
    given |= {
        name: number_of(body.get(key), key, least=1, most=maximum)
        for name, (key, maximum) in _NUMBERS.items()
        if body.get(key) is not None
    }
    if "commit" not in given and body.get("commit"):
        given["commit"] = _text(body["commit"], "commit")
    kind = _text(body.get("type") or body.get("profile"), "type")
    count = body.get("count")
    vm_request = ProvisionRequest(
        name=_name(body.get("name")),
        profile=_profile(kind),
        parent_vm_id=aliases.resolve(_text(body.get("parentVmId"), "parentVmId", needed=False)),
        provider=_provider(_text(body.get("provider"), "provider", needed=False)),
        labels=_labels(body.get("labels")),
        extra_organs=_names(body.get("extraOrgans"), "extraOrgans"),
        extra_capabilities=_names(body.get("extraCapabilities"), "extraCapabilities"),
        on_failure=_parse_policy(body.get("onFailure"), "onFailure"),
        count=None if count is None else number_of(count, "count", least=1, most=MAX_COUNT),
        **given,
    )
    vm_request.names()
    if vm_request.commit and vm_request.image:
        raise BadInput("image: a commit is restored as it is; say commitId or image", "image")
    if vm_request.agent_version and (wrong := values.problem(_VERSION, vm_request.agent_version)):
        raise BadInput(f"agentVersion: {wrong}, such as {_VERSION.default}", "agentVersion")
    catalog.check(vm_request.extra_organs, catalog.EXTRA_ORGANS, "extraOrgans")
    catalog.check(vm_request.extra_capabilities, catalog.CAPABILITIES, "extraCapabilities")
    return vm_request


def spec_json(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a machine's specification by the field names of requests."""
    names = {**_TEXTS, **{column: key for column, (key, _) in _NUMBERS.items()}}
    return {names.get(column, column): value for column, value in spec.items()}


def _name(value: object) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if not name:
        raise BadInput("name is required", "name")
    if not NAME.fullmatch(name):
        rule = "1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
        raise BadInput(f"name: must be {rule}", "name")
    return name


def _text(value: object, field_name: str, *, needed: bool = True) -> str:
    if value is None and not needed:
        return ""
    if value is None:
        raise BadInput(f"{field_name} is required", field_name)
    if not is_storable(value) or any(ord(character) < 32 for character in value):
        raise BadInput(f"{field_name}: must be text", field_name)
    value = value.strip()
    if len(value) > MAX_TEXT:
        raise BadInput(f"{field_name}: at most {MAX_TEXT} characters", field_name)
    if needed and not value:
        raise BadInput(f"{field_name} is required", field_name)
    return value


def _names(value: object, field_name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise BadInput(f"{field_name}: must be a list of text", field_name)
    return tuple(_text(each, field_name) for each in value)


def _labels(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_NAMES:
        raise BadInput("labels: must be an object of texts", "labels")
    return {_text(key, "labels"): _text(text, "labels") for key, text in value.items()}


def _parse_policy(value: object, field_name: str) -> CleanupPolicy:
    if value is None:
        return CleanupPolicy.KEEP
    return CleanupPolicy(choice_of(value, field_name, CleanupPolicy.values))


def parse_cleanup(value: object) -> CleanupPolicy | None:
    """Return the cleanup policy in a cancellation's `machine`, if given. Raise BadInput."""
    return None if value is None else _parse_policy(value, "machine")


def _profile(kind: str) -> str:
    try:
        return profiles.get(kind).type
    except ReefError as error:
        raise BadInput(str(error), "type") from None


def _provider(slug: str) -> str:
    if slug and slug not in providers.all_slugs():
        valid = ", ".join(providers.all_slugs())
        raise BadInput(f"provider: must be one of {valid}", "provider")
    return slug
