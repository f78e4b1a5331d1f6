"""VMs as JSON, and request bodies as commands, in the wire format.

Key order, absent keys and texts are part of the contract with agents in the field; new keys come
last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from reef_site.common import clock
from reef_site.common.errors import BadInput
from reef_site.common.request_values import choice_of, text_of
from registry.models import VM, Role, Status, Watch
from vmtree import aliases, ids
from vmtree.dna import parse_dna
from vmtree.models import Category

Json = dict[str, Any]
MAX_TEXT_LENGTH = 255
MAX_JSON_BYTES = 256 << 10
MAX_PLACED = 1000
ABSENT = object()
# Known fields of a registration; others are ignored, as they always were.
REGISTRATION_FIELDS = (
    *("id", "name", "role", "address", "registeredBy", "parentVmId", "status", "services"),
    *("reefConfig", "metadata"),
)


def vms_json(vms: Iterable[VM], at: datetime | None = None) -> list[Json]:
    """Return VMs as JSON with their liveness at this moment."""
    at = at or clock.now()
    grace = Watch.grace(at)
    return [vm_json(vm, at, grace=grace) for vm in vms]


def vm_json(vm: VM, at: datetime, *, grace: bool) -> Json:
    facts: Json = {
        "id": vm.pk,
        "name": vm.name,
        "role": vm.role,
        "status": vm.status,
        "address": vm.address,
        "parentVmId": vm.parent_vm_id,
        "services": vm.services,
        "reefConfig": vm.reef_config,
        "registeredBy": vm.registered_by,
        "registeredAt": vm.registered_at,
        "lastSeen": vm.last_seen,
    }
    if vm.has_metadata:
        facts["metadata"] = vm.metadata
    facts["liveness"] = vm.liveness(at, grace=grace).value
    if vm.vitals:
        facts["vitals"] = vm.vitals
    return facts


# -- parsing requests --------------------------------------------------------------------------


@dataclass(frozen=True)
class Registration:
    """A registration. Fields that are None were absent; an update keeps their old values."""

    id: str
    name: str
    role: str
    address: str
    registered_by: str
    parent_vm_id: str | None = None
    # `parentVmId: null` removes the parent; absent or empty keeps it.
    clears_parent: bool = False
    services: list[Any] | None = None
    reef_config: Json | None = None
    metadata: Any = None


def parse_registration(body: object) -> Registration:
    """Parse a registration. Raises BadInput with the contract's texts, in the contract's order."""
    data: Mapping[str, Any] = body if isinstance(body, dict) else {}
    vm_id, name = required(data, "id"), required(data, "name")
    ids.check_new_id(vm_id, "id")
    role = data.get("role", ABSENT)
    if not isinstance(role, str) or role not in Role.values:
        raise BadInput(f"invalid role: {_as_text(role)}", "role")
    return Registration(
        id=vm_id,
        name=name,
        role=role,
        address=required(data, "address", most=1000),
        registered_by=required(data, "registeredBy"),
        parent_vm_id=_parent(data),
        clears_parent="parentVmId" in data and data["parentVmId"] is None,
        services=_services(data["services"]) if _has_value(data, "services") else None,
        reef_config=parse_dna(data["reefConfig"]) if _has_value(data, "reefConfig") else None,
        metadata=plain(data["metadata"], "metadata") if _has_value(data, "metadata") else None,
    )


@dataclass(frozen=True)
class Placement:
    """VMs to place in the tree."""

    ids: list[str]
    parent_vm_id: str = ""
    category: str = ""


def parse_placement(body: object) -> Placement:
    """Parse ids, parent and category. Raises BadInput."""
    data: Mapping[str, Any] = body if isinstance(body, dict) else {}
    ids = data.get("ids")
    if not isinstance(ids, list) or not ids or len(ids) > MAX_PLACED:
        raise BadInput(f"ids: must be a list of 1 to {MAX_PLACED} ids", "ids")
    category = data.get("category")
    if category is not None:
        choice_of(category, "category", Category.values)
    found = dict.fromkeys(aliases.resolve(text(vm_id, "ids")) for vm_id in ids)
    return Placement(list(found), _parent(data) or "", category or "")


def parse_changes(body: object) -> Json:
    """Parse a PATCH into columns and values; unknown keys are ignored. Raises BadInput."""
    data: Mapping[str, Any] = body if isinstance(body, dict) else {}
    changes: Json = {}
    if "status" in data:
        if data["status"] not in Status.values:
            raise BadInput(f"invalid status: {_as_text(data['status'])}", "status")
        changes["status"] = data["status"]
    for name, most in (("name", MAX_TEXT_LENGTH), ("address", 1000)):
        if name in data:
            changes[name] = text(data[name], name, most=most)
    if "services" in data:
        changes["services"] = _services(data["services"])
    if "reefConfig" in data:
        changes["reef_config"] = parse_dna(data["reefConfig"])
    if "metadata" in data:
        changes |= {"metadata": plain(data["metadata"], "metadata"), "has_metadata": True}
    if "parentVmId" in data:
        changes["parent_vm_id"] = _parent(data)
    return changes


def required(data: Mapping[str, Any], name: str, *, most: int = MAX_TEXT_LENGTH) -> str:
    """Return required text, trimmed. Raises BadInput if it is missing or blank."""
    value = data.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadInput(f"{name} is required", name)
    return text(value, name, most=most)


def text(value: object, name: str, *, most: int = MAX_TEXT_LENGTH) -> str:
    """Return trimmed text that every database can store. Raises BadInput."""
    return text_of(value, name, length=most, accepts=_has_no_controls)


def _has_no_controls(text: str) -> bool:
    return not any(ord(sign) < 32 or 0xD800 <= ord(sign) < 0xE000 for sign in text)


def plain(value: object, name: str) -> Any:
    """Return JSON that every database can store and every client can parse. Raises BadInput."""
    try:
        raw = orjson.dumps(value)
    except TypeError as error:
        raise BadInput(f"{name}: cannot be kept ({error})", name) from None
    if len(raw) > MAX_JSON_BYTES:
        raise BadInput(f"{name}: has {len(raw)} bytes, at most {MAX_JSON_BYTES} are kept", name)
    if b"\\u0000" in raw:
        raise BadInput(f"{name}: has characters that are no text", name)
    return orjson.loads(raw)


def _services(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise BadInput("services: must be a list", "services")
    services: list[Any] = plain(value, "services")
    return services


def _parent(data: Mapping[str, Any]) -> str | None:
    value = data.get("parentVmId")
    return None if value is None else aliases.resolve(text(value, "parentVmId")) or None


def _has_value(data: Mapping[str, Any], name: str) -> bool:
    """Return whether there is a value that an old server would have accepted, `{}` included."""
    return name in data and data[name] not in (None, "", 0, False)


def _as_text(value: object) -> str:
    """Format an invalid value as the texts of the contract repeat it."""
    if value is ABSENT:
        return "undefined"
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown.encode("utf-8", "replace").decode()[:200]
