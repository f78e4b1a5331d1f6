"""Bodies of registrations, new nodes and changes, read by the edge if all values are plain.

Plain is what no check of the declared API refuses or changes. All others are left to Django.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from rest_framework.exceptions import ValidationError

from reef_site.common.api.fields import StoredJson
from reef_site.common.errors import BadInput
from registry import serializers
from registry.models import Role, Status
from registry.services import Registration
from vmtree import aliases, dna, ids
from vmtree.models import Category
from vmtree.services import NewNode, NodeChange

_VM_FIELDS = frozenset(serializers.RegistrationBody.names())
_STORED = StoredJson()
# `values` makes a new list each time. No sets: given values may not be hashable.
_STATUSES, _ROLES, _CATEGORIES = map(tuple, (Status.values, Role.values, Category.values))
_NODE_FIELDS = frozenset({"vmId", "name", "category", "parentVmId", "reefConfig"})
# Fields of a change that the edge makes, and their columns.
_VM_CHANGES = {
    "status": "status",
    "name": "name",
    "address": "address",
    "services": "services",
    "reefConfig": "reef_config",
    "metadata": "metadata",
}
MAX_BODY = 64 << 10
# Escapes and long numbers, which JSON parsers understand differently.
_UNCLEAR = re.compile(rb"\\u|[:,\[]\s*-?(?:\d{16}|[\d.]+[eE])")


class Registering(NamedTuple):
    """A request to register a VM; the hash of its token is None for the root token."""

    digest: str | None
    command: Registration
    address: str = ""


class Creating(NamedTuple):
    """A request to create a node."""

    digest: str | None
    command: NewNode
    address: str = ""


Request = Registering | Creating


def parse(what: str, digest: str | None, body: bytes, address: str) -> Request | None:
    """Parse a body with plain values only; None to pass the request on."""
    if not is_clear(body):
        return None
    try:
        data = orjson.loads(body)
        if not isinstance(data, dict):
            return None
        if what == "register":
            registration = _registration(data)
            return Registering(digest, registration, address) if registration else None
        new = _new_node(data)
        return Creating(digest, new, address) if new else None
    except (BadInput, orjson.JSONDecodeError):
        # Django reports the error.
        return None


def is_clear(body: bytes) -> bool:
    """Return whether all JSON parsers understand this body alike, and it is not large."""
    return len(body) <= MAX_BODY and not _UNCLEAR.search(body)


def vm_changes(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the columns that a change of a registered VM sets; None to pass it on."""
    if (
        not data.keys() <= _VM_CHANGES.keys()
        or not _is_plain(data.get("name", "n"))
        or not _is_plain(data.get("address", "a"), serializers.MAX_ADDRESS_LENGTH)
        or data.get("status", Status.RUNNING) not in _STATUSES
        or not isinstance(data.get("services", []), list)
        or not all(_is_kept(data[name]) for name in ("services", "metadata") if name in data)
    ):
        return None
    columns = {_VM_CHANGES[name]: value for name, value in data.items()}
    if "reefConfig" in data:
        columns["reef_config"] = dna.parse_dna(data["reefConfig"])
    return {**columns, "has_metadata": True} if "metadata" in data else columns


def node_changes(data: Mapping[str, Any]) -> NodeChange | None:
    """Return the command of a change of a node; None to pass it on."""
    if (
        not data.keys() <= {"name", "category", "reefConfig"}
        or not _is_plain(data.get("name", "n"))
        or data.get("category", Category.LIEUTENANT) not in _CATEGORIES
    ):
        return None
    given = {name: data[name] for name in ("name", "category") if name in data}
    if "reefConfig" in data:
        given["dna"] = dna.parse_dna(data["reefConfig"])
    return NodeChange(**given)


def _registration(data: Mapping[str, Any]) -> Registration | None:
    optional = [data[name] for name in ("services", "reefConfig", "metadata") if name in data]
    texts = [data.get(name) for name in ("id", "name", "registeredBy")]
    address, parent = data.get("address"), data.get("parentVmId", "")
    services_ = data.get("services")
    if (
        not data.keys() <= _VM_FIELDS
        or not all(_is_plain(text) for text in texts)
        or not _is_plain(address, serializers.MAX_ADDRESS_LENGTH)
        or not (parent == "" or _is_plain_id(parent))
        or data.get("role") not in _ROLES
        or any(value in (None, "", 0, False) for value in optional)
        or not isinstance(services_, list | None)
        or not all(_is_kept(data[name]) for name in ("services", "metadata") if name in data)
    ):
        return None
    ids.check_new_id(data["id"], "id")
    config = dna.parse_dna(data["reefConfig"]) if "reefConfig" in data else None
    return Registration(
        id=data["id"],
        name=data["name"],
        role=data["role"],
        address=data["address"],
        registered_by=data["registeredBy"],
        parent_vm_id=parent or None,
        services=services_,
        reef_config=config,
        metadata=data.get("metadata"),
    )


def _is_kept(value: Any) -> bool:
    """Return whether databases and clients can have this JSON value."""
    try:
        _STORED.to_internal_value(value)
    except ValidationError:
        return False
    return True


def _new_node(data: Mapping[str, Any]) -> NewNode | None:
    parent, config = data.get("parentVmId", ""), data.get("reefConfig", {})
    if (
        not data.keys() <= _NODE_FIELDS
        or not _is_plain(data.get("name"))
        or not _is_plain_id(data.get("vmId"))
        or not (parent == "" or _is_plain_id(parent))
        or data.get("category") not in _CATEGORIES
    ):
        return None
    ids.check_new_id(data["vmId"], "vmId")
    config = dna.parse_dna(config)
    return NewNode(data["name"], data["category"], data["vmId"], parent, config)


def _is_plain(text: object, length: int = serializers.MAX_TEXT_LENGTH) -> bool:
    """Return whether this is text that no check refuses or changes."""
    if not isinstance(text, str) or not 0 < len(text) <= length:
        return False
    return text.isprintable() and text == text.strip()


def _is_plain_id(text: object) -> bool:
    return _is_plain(text) and not str(text).endswith("/") and not aliases.is_alias(str(text))
