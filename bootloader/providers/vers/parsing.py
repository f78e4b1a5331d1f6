"""Parse the platform's responses: unknown members are ignored, optional ones may be missing.

Essential members (ids, states) must be present: otherwise ValueError.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from reef_site.common import clock


@dataclass(frozen=True)
class VM:
    """A row of the list, and the response of `status`. `state` is in lower case.

    `labels` is None if the response has no labels member.
    """

    vm_id: str
    owner_id: str
    state: str
    created_at: datetime | None
    labels: Mapping[str, str] | None

    @classmethod
    def read(cls, given: Any) -> Self:
        """Parse JSON."""
        row = _object(given)
        return cls(
            vm_id=parse_id(row.get("vm_id")),
            owner_id=_text(row, "owner_id").lower(),
            state=_text(row, "state", needed=True).lower(),
            created_at=_time(row, "created_at"),
            labels=_labels(row),
        )


@dataclass(frozen=True)
class Metadata:
    """A VM's origin. The "grandparent" is the VM from which its commit was taken."""

    vm_id: str
    ip: str
    parent_commit_id: str | None
    grandparent_vm_id: str | None
    deleted_at: datetime | None

    @classmethod
    def read(cls, given: Any) -> Self:
        """Parse JSON."""
        row = _object(given)
        return cls(
            vm_id=parse_id(row.get("vm_id")),
            ip=_text(row, "ip"),
            parent_commit_id=_text(row, "parent_commit_id").lower() or None,
            grandparent_vm_id=_text(row, "grandparent_vm_id").lower() or None,
            deleted_at=_time(row, "deleted_at"),
        )


@dataclass(frozen=True)
class Commit:
    """A saved machine."""

    commit_id: str
    name: str
    created_at: datetime | None
    parent_vm_id: str | None

    @classmethod
    def read(cls, given: Any) -> Self:
        """Parse JSON; some responses name the id `id`."""
        row = _object(given)
        return cls(
            commit_id=parse_id(row.get("commit_id") or row.get("id")),
            name=_text(row, "name"),
            created_at=_time(row, "created_at"),
            parent_vm_id=_text(row, "parent_vm_id").lower() or None,
        )


@dataclass(frozen=True)
class SshKey:
    """The SSH key of one VM. The response's port is internal to the platform and not used."""

    private_key: str = field(repr=False)

    @classmethod
    def read(cls, given: Any) -> Self:
        """Parse JSON."""
        return cls(_text(_object(given), "ssh_private_key", needed=True))


@dataclass(frozen=True)
class Verdict:
    """The platform's opinion of a key."""

    valid: bool
    message: str


def parse_id(given: object) -> str:
    """Return a UUID in canonical form, safe for file names. Raise ValueError."""
    if not isinstance(given, str):
        raise ValueError("an id is missing")
    return str(uuid.UUID(given))


def new_ids(given: Any) -> list[str]:
    """Return ids of new VMs: `{"vms": [{"vm_id"}…]}`, or the older `{"vm_id"}`."""
    row = _object(given)
    rows = row["vms"] if isinstance(row.get("vms"), list) else [row]
    return [parse_id(_object(each).get("vm_id")) for each in rows]


def created_ids(given: Any) -> tuple[str, ...]:
    """Return ids of VMs that exist although an error was returned."""
    rows = given.get("vms") if isinstance(given, dict) else None
    found = []
    for each in rows if isinstance(rows, list) else []:
        try:
            found.append(parse_id(_object(each).get("vm_id")))
        except ValueError:
            continue
    return tuple(found)


def rows_of(given: Any, name: str = "") -> list[Any]:
    """Return a list of rows, bare or under this name."""
    rows = given.get(name) if isinstance(given, dict) else given
    if not isinstance(rows, list):
        raise ValueError("a list is missing")
    return rows


def _object(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError("an object is missing")
    return given


def _text(row: Mapping[str, Any], name: str, *, needed: bool = False) -> str:
    value = row.get(name)
    if isinstance(value, str) and value:
        return value
    if needed:
        raise ValueError(f"'{name}' is missing")
    return ""


def _time(row: Mapping[str, Any], name: str) -> datetime | None:
    try:
        return clock.parse_iso(_text(row, name))
    except ValueError:
        return None


def _labels(row: Mapping[str, Any]) -> Mapping[str, str] | None:
    if "labels" not in row:
        return None
    given = row["labels"]
    return {str(key): str(value) for key, value in given.items()} if isinstance(given, dict) else {}
